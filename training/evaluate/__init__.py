"""The router as it is served, against baselines on requests whose outcomes are known."""
