"""Initial weights: loading with pinned digests, and expansion of smaller networks."""
