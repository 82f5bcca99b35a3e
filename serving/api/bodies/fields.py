"""What several bodies have in common: a name, how long a batch may be, and an error about one field."""

from __future__ import annotations

from typing import Annotated, LiteralString

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

# No batch may be longer, whatever ROUTER_MAX_BATCH says: it is refused before anything in it is looked at.
MOST_IN_A_BATCH = 4_096

Name = Annotated[str, Field(min_length=1, max_length=256)]


def refused(field: str, kind: LiteralString, message: LiteralString, **said: str) -> ValidationError:
    """An error about one field: one of the model as a whole would have no field to name."""
    located = InitErrorDetails(type=PydanticCustomError(kind, message, said), loc=(field,), input=None)
    return ValidationError.from_exception_data("body", [located], hide_input=True)
