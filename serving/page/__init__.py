"""The page: static files that a browser needs, and the headers they are sent with."""
