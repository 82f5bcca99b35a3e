"""What waits to be written: in the order in which it came, and feedback on decisions that are not there."""
