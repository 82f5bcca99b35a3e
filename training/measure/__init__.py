"""Pure statistics: metrics, frontiers, bounds and off-policy estimates, each with the source of its definition."""
