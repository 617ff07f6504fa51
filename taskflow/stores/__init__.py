"""Where runs and checkpoints are kept: one protocol (`base`), in memory or in a SQLite file."""
