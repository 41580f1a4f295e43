"""Maintainer tools that are not installed: benchmarks, published numbers, reference pages."""
