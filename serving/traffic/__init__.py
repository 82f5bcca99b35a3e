"""What traffic amounts to: how many requests a month, and whether its prompts are still those of training."""
