"""What one decision rests on: the answer to `explain`, and how it is found."""
