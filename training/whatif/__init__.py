"""What a router would do on a log if something were otherwise: a price, a candidate, a constraint."""
