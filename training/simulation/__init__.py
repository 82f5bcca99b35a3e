"""The simulated log, for `make train` in the repository; it is not in the wheel."""
