"""Train the finder, the network that outlines every white cell of a field and its nucleus."""
