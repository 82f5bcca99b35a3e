"""Logs of any kind as one outcome table: what its rows mean, and the account of every row."""
