"""One request from the rules to the record, the bundle that is live, and what is measured on the way."""
