"""A logger: write the loss to a table."""

from convflow.training.loggers import Logger


class Table(Logger):
    """Lines of step and loss in `loss.csv` of the run folder."""

    def log(self, step, images_seen, metrics, speed):
        """Add a line."""
        with (self.run / "loss.csv").open("a") as file:
            file.write(f"{step},{metrics['loss']}\n")
