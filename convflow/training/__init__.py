"""Training: typed settings, the loop, averaged weights, checkpoints, what a run shows of itself."""
