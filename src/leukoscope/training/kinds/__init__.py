"""Training of the classifier of cell kinds for laboratories it was not trained in."""
