"""What a run leaves behind: the bundle's manifest and report, its promotion, and its entry in MLflow."""
