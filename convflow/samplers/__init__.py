"""Samplers: from noise to data with any Denoiser; they know no network by name."""
