"""Statistics of a binary classifier whose unit of evidence is the subject; NumPy only."""
