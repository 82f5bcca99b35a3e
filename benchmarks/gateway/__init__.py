"""`make bench-gateway`: LiteLLM's proxy with the plug-in: what a kill leaves, what it adds to a call, the loop through it."""
