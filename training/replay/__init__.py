"""Buying the answers that a plan lists: each pair of a request and a candidate is asked once, and is an outcome."""
