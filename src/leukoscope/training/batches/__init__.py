"""Cells as batches: decoding, augmentation, cached activations and embeddings."""
