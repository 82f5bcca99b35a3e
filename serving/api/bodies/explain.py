"""What a request may ask about its own decision, beside what it asks of it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Shown(BaseModel):
    """The fields that show a decision instead of making one, or beside that. One request at a time: in no batch."""

    explain: bool | None = Field(
        default=None,
        description="True: the answer has an `explanation`, what the decision rests on. It takes some milliseconds more.",
    )
    dry_run: bool | None = Field(
        default=None,
        description="True: decide and record nothing: no row, no session, no question to the shadow, nothing charged. "
        "The rules hold, and what budgets leave; sessions are not looked at, and nothing is explored or held back. "
        "Its id is `dry-run`.",
    )

    @property
    def shows(self) -> bool:
        return bool(self.explain or self.dry_run)


SHOWN = tuple(Shown.model_fields)
