"""A store's decisions by the month in which they were made: PostgreSQL keeps each month by itself, and old ones are let go."""
