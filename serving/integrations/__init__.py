"""What other programs load to be routed and to tell what came of it."""
