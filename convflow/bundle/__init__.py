"""What a trained model is in a folder: weights, description, and how they are found."""
