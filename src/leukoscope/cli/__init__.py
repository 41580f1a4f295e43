"""The command line: one module per group of commands. Heavy packages are imported only when a command runs."""
