"""Training: typed settings, the loop, averaged weights, checkpoints and what a run shows of itself."""
