"""A log that is on disk as an import: what of it is held in memory, and how much memory that takes."""
