"""Tests of training/learn/heads."""
