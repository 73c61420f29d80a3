"""Trained models for other programs: files, folders and pages that run without convflow."""
