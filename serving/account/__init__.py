"""What routing saved, by arithmetic alone: sums of decisions and feedback -> lines with intervals."""
