"""Evaluation: score tables in; ``report.json``, figures and one HTML report out."""
