"""Outcomes as matrices: labels, parts whose groups stay whole, and what a head sees of each request."""
