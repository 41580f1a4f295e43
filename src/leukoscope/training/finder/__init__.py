"""The finder: a network that outlines every white cell of a field and its nucleus, from boxes, masks and single cells."""
