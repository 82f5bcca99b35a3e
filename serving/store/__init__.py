"""The store of decisions and of the feedback on them, which is itself a log to train on."""
