"""Langfuse: exports of observations and scores, and the same over its API."""
