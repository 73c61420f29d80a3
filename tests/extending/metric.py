"""A metric of a user's own: how far the means of two sets of features are apart."""

from convflow.evaluation.scores import Comparison, Metric


def distance(pair: Comparison) -> tuple[float]:
    """The Euclidean distance of the means; `pair.moments` gives ours first, then the real ones."""
    ours, _, real, _ = pair.moments("features")
    return (float((ours - real).norm()),)


MeanDistance = Metric({"MD": "lower"}, ("features",), distance)
