"""What a step of training makes smaller: the loss of the process, and objectives beside it."""
