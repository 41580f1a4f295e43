"""Leukemia detection from single-cell blood-smear images. Research use only."""

__version__ = "0.1.0"
