"""Processes: how data become noise in training, and what the network is asked for."""
