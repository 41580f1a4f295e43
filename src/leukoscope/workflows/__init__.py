"""What joins inference, training and evaluation: the work behind a command."""
