"""Tests of what a router would do if something were otherwise."""
