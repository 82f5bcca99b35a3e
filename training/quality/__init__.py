"""Quality from elsewhere: scores that lie in files, checks of logged answers, an LLM that grades them."""
