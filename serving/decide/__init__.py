"""From estimates to a decision: pure, with no clock, no lock and no I/O."""
