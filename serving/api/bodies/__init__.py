"""The bodies of requests, as they arrive."""
