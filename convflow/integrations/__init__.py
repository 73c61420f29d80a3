"""Trained models for other programs, diffusers and the Hub: what runs without convflow."""
