"""What replaying raises."""

from __future__ import annotations

from training.errors import TrainingError


class ReplayError(TrainingError):
    """A plan that cannot be bought as asked: who to ask, by which key, at which price, or where to keep the answers."""
