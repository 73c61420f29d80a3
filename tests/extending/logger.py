"""A table of the loss, as a user writes a logger: --monitor.logger tests.extending.logger:Table."""

from convflow.training.loggers import Logger


class Table(Logger):
    """Lines of step and loss in `loss.csv`."""

    def log(self, step, images_seen, metrics, speed):
        """Add a line."""
        with (self.run / "loss.csv").open("a") as file:
            file.write(f"{step},{metrics['loss']}\n")
