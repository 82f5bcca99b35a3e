"""LiteLLM: the payloads of its loggers, and its table of spending."""
