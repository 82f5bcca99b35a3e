"""What came of asking a candidate: an answer, a fault that nobody bills, or one that may have been billed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from training.logs.cells import parse_json
from training.logs.sources.chat_bodies import answer_cells, answer_text

_MOST_TOKENS = 2**31


@dataclass(frozen=True)
class Answer:
    """What a candidate answered. `text` None: only calls of tools, or nothing that could be read, which is an error.

    The tokens are None where the response does not say how many it was billed for.
    """

    text: str | None
    tool_calls: list[Any] | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    error: bool = False


@dataclass(frozen=True)
class Reply:
    """What came of one attempt: an `answer`; a fault that is not billed (`free`), or that may be (`doubt`), and its reason.

    `passing`: another attempt may fare better, `retry_after` seconds later where the server said so. `fatal`: no other call of
    this candidate would. `left`: the attempt was not made.
    """

    kind: Literal["answer", "free", "doubt", "left"]
    reason: str = ""
    answer: Answer | None = None
    passing: bool = False
    fatal: bool = False
    retry_after: float = 0.0
    latency_ms: float | None = None


def status_fault(status: int, retry_after: str | None) -> Reply:
    """The reply for a status that says that there is no answer; servers bill none of these."""
    passing = status in (408, 409, 425, 429) or status >= 500
    fatal = status in (401, 402, 403, 404, 405)
    return Reply("free", f"HTTP {status}", passing=passing, fatal=fatal, retry_after=_seconds(retry_after))


def read_reply(content: bytes) -> Reply:
    """The reply for the body of a chat completion.

    What has a billed usage and no answer is an outcome all the same, an error; what has neither says nothing of the candidate.
    """
    try:
        document = parse_json(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Reply("doubt", "the response is no JSON object", passing=True)
    cells = answer_cells(document)
    tokens = (_count(cells["input_tokens"]), _count(cells["output_tokens"]))
    # LiteLLM has zeros where the response had nothing, and no request is without tokens.
    billed = None not in tokens and tokens[0] != 0
    used = tokens if billed else (None, None)
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict) or cells["status"] == "error":
        if billed:
            return Reply("answer", answer=Answer(None, None, _word(choice.get("finish_reason")), *used, error=True))
        return Reply("doubt", "the response has neither an answer nor a usage", passing=True)
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) and calls else None
    text = answer_text(document)
    if text is None and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    if text is None and calls is None:
        text = ""
    return Reply("answer", answer=Answer(text, calls, _word(choice.get("finish_reason")), *used))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS else None


def _word(value: Any) -> str | None:
    return value[:40] if isinstance(value, str) else None


def _seconds(told: str | None) -> float:
    """Retry-After, which is seconds or a date, in seconds; 0 where it says nothing."""
    if told is None:
        return 0.0
    try:
        return max(0.0, float(told))  # in this order, "nan" is 0
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):  # no date, or one without its zone
        return 0.0
