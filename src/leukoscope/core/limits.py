"""Largest numbers that options and settings take: beyond them no call is meant, and libraries overflow."""

LARGEST_SEED = 2**31 - 1
"""Of every random seed; NumPy, torch and Optuna all take seeds up to here."""
LARGEST_COUNT = 2**31 - 1
"""Of images, cells, rows, trials and other whole numbers without a limit of their own."""
LARGEST_REPLICATES = 1_000_000
"""Of bootstrap resamples."""
LARGEST_WORKERS = 1024
"""Of threads, processes, devices or machines."""
LONGEST_RETENTION_DAYS = 36_500
"""A hundred years; a date further back may lie before the calendar begins."""
LONGEST_WAIT_S = 86_400.0
"""A day: of every wait for another thread, process or machine."""
