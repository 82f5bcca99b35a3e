"""`python -m training.cli` is `router-train`."""

from training.cli.main import main

main()
