"""Public data sets: the Hugging Face Hub, RouterBench, RouteLLM."""
