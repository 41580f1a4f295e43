"""The cohort: C-NMC names and official files, the cell table, its audit, its splits."""
