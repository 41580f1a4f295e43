"""Backbones, heads and pooling."""
