"""The contract that training writes and serving reads: a bundle, its candidates, and how a request is read and embedded."""
