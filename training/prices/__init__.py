"""What a token costs and what a candidate can do: the catalogue, and the price lists that fill it."""
