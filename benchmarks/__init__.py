"""What docs/benchmarks.md is made by; not in the wheel."""
