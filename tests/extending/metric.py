"""A metric: the distance between the means of two sets of features."""

from convflow.evaluation.scores import Metric


def distance(pair):
    """Return the Euclidean distance. `pair.moments` gives our mean first, then the real one."""
    ours, _, real, _ = pair.moments("features")
    return (float((ours - real).norm()),)


MeanDistance = Metric({"MD": "lower"}, ("features",), distance)
