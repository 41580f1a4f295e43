"""Workflows of commands that need inference, training and evaluation together."""
