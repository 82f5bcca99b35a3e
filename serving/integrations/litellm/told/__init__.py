"""What became of the calls: read from LiteLLM's events, kept on disk, delivered to the router and to sinks."""
