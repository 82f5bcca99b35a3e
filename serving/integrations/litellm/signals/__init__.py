"""Weak signals: what passes a gateway and hints at a bad answer."""
