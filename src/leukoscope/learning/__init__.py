"""Learning from a laboratory: its profile, and a head refitted on corrected cells."""
