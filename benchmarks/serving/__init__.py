"""`make bench-serve`: what a decision costs over HTTP, a long load, and texts that try to force a candidate."""
