"""What was read before: rows that say the same again, and one call that several logs tell."""
