"""Which part of a log too large to be held is learned from, and what each of its requests stands for."""
