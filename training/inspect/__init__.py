"""What a log holds and what it can support, before anything is trained on it."""
