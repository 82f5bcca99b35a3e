"""How training, serving and the store grow: the figures of the section Scale of docs/benchmarks.md."""
