"""The training loop: trainer, optimizer, state, checkpoints, scoring."""
