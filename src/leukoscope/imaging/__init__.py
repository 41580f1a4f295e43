"""Images in and out: decoding, foreground, preparation, descriptors, heat maps; NumPy and Pillow only."""
