"""Pacing, abstaining and learning from decisions, compared with the simulator's truth."""
