"""What a run keeps beside its bundle, so that a later one adds new rows to it: no text, no session id, and no pickle."""
