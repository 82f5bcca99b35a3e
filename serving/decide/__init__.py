"""From estimates to a decision: pure, with no clock, no lock and no I/O but for `Router.load`, which reads a bundle."""
