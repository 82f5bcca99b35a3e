"""The plug-in for LiteLLM."""
