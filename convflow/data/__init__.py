"""Data: where images come from, how they become uint8 tensors, and in which order."""
