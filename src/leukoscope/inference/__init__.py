"""Images in, predictions out: sources, predictor, results, explanations."""
