"""A bundle at work: engine sessions, the predictor, attribution and the result schema."""
