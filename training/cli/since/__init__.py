"""`run --since` and `run --choices-of`: what the command goes on from."""
