"""Charts as Vega-Lite documents, each with the table behind it."""
