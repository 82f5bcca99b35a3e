"""From what LiteLLM has of a request to what the router is asked: its text, its demands, who may answer."""
