"""What a client raises.

ClientError
|-- RouteRefusedError    the rules admit no answer: 402, 403 or 422, with the problem document
|-- FeedbackError        feedback that is not known to be stored
'-- RouterFailedError    no answer that can be used; `route` never lets it out, it is why a fallback is given
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """The base of what a client raises."""


class RouterFailedError(ClientError):
    """The router gave no answer that can be used."""


class RouteRefusedError(ClientError):
    """The router answers that this request may go to nobody: its budget is spent, its key may not, no candidate is eligible.

    It is an answer, so nothing falls back: the request would go where the rules say that it must not. A request that is not
    valid is refused too, with `errors` in the problem.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title', '')}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem


class FeedbackError(ClientError):
    """Feedback that is not known to be stored. The same again changes nothing, so it can be sent again.

    `results` are those of the items before, in order: `said[len(error.results):]` is what is left to send. `status` is that of
    the answer, None where none came; `retry_after_seconds` is what the router asked for, if it did.
    """

    def __init__(
        self,
        why: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        results: Sequence[str | Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(f"feedback is not known to be stored: {why}")
        self.why = why
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.results = list(results)
