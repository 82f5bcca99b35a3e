"""Sums of days that are over, which accounts of savings take in place of rows: kept by PostgreSQL beside the rows."""
