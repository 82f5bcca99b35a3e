"""`make benchmark`: the router against baselines on public outcome data and on the simulated log."""
