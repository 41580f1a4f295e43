"""The bundle: its manifest, files, hashes, card and report."""
