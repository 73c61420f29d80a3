"""Scores of generated images: features, statistics and metrics."""
