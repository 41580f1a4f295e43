"""Vocabulary, errors, configuration, text and file output: the lowest layer."""
