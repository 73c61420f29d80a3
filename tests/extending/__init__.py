"""Small modules outside the package, each of which extends it through one of its tables."""
