"""One importer per kind of log, and the choice between them by looking at what arrived."""
