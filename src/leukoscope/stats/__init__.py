"""Statistics of a binary classifier with the subject as statistical unit; NumPy only."""
