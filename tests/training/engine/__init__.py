"""Tests of `training/engine`."""
