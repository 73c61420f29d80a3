"""Things to look at: what the shipped models draw, and the two-minute demo on digits."""
