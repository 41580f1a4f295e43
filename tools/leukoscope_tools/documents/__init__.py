"""Numbers and reference pages in the documentation."""
