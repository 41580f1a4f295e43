"""Benchmarks of speed and memory, all backends in one run."""
