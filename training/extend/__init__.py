"""A candidate that a bundle does not know yet, added to it from a few answers: one new column, and nothing else."""
