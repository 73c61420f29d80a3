"""Scores of generated pictures: features, statistics and metrics."""
