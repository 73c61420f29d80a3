"""Conditions: what a network is asked for."""
