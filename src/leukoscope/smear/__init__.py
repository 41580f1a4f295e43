"""Smears: from photographs of a stained blood film to white cells that are outlined, measured and counted."""
