"""Settings: names that stand for parts, and what a part declares of itself."""
