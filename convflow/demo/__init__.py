"""Things to look at: the two-minute demo on handwritten digits."""
