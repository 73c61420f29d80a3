"""Things to look at: what a shipped model draws, and the two-minute demo on digits."""
