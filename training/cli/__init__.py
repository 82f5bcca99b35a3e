"""The command line of training: options said once, one way of reading a log, and what is printed."""
