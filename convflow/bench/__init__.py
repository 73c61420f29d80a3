"""Timing convflow against rivals and against what the machine can do at most."""
