"""The requests of the simulated log: who asks what, when, and in which conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.simulation.prompts import Draw, compose, follow_up, has_conversations, reply, system_message

Floats = NDArray[np.float64]
Message = dict[str, str]

START = pd.Timestamp("2026-01-05T00:00:00Z")  # a Monday
REPEAT_SHARE = 0.075  # of single-turn conversations, which makes about one request in twenty
NOISE = 0.06  # standard deviation of the part of difficulty that no text shows
MEAN_TURNS = 1.8  # of conversations in the workflows that have them


class Share(NamedTuple):
    """A workflow's share of requests on the first and on the last day, and its usual answer's length in tokens."""

    first_share: float
    last_share: float
    answer_tokens: int


MIX = {
    "support-triage": Share(0.26, 0.12, 140),
    "sql": Share(0.12, 0.13, 150),
    "code-review": Share(0.10, 0.19, 320),
    "json-extraction": Share(0.14, 0.12, 130),
    "summarising": Share(0.12, 0.12, 260),
    "maths": Share(0.06, 0.14, 380),
    "translation": Share(0.12, 0.10, 90),
    "creative-writing": Share(0.08, 0.08, 420),
}
WORKFLOWS: tuple[str, ...] = tuple(MIX)
# Requests by hour of the day (UTC) and by weekday, relative.
_HOURS = (2, 1, 1, 1, 2, 3, 5, 9, 14, 17, 18, 17, 14, 16, 18, 18, 16, 13, 10, 8, 7, 6, 4, 3)
_WEEKDAYS = (1.0, 1.08, 1.1, 1.05, 0.9, 0.4, 0.35)


@dataclass(frozen=True)
class Content:
    """What one request says (prompt or messages) and what follows from it; `answer` is relative to the usual length."""

    prompt: str | None
    messages: tuple[Message, ...] | None
    difficulty: float  # with the part that the text does not show
    answer: float
    family: str
    tokens: int


@dataclass(frozen=True)
class Requests:
    """The distinct requests by time, one entry each; `workflow` indexes WORKFLOWS, `seconds` count from START."""

    contents: list[Content]
    workflow: NDArray[np.intp]
    seconds: Floats
    session: list[str | None]


def write_requests(count: int, days: float, rng: np.random.Generator) -> Requests:
    """Conversations over the whole period, as many as make `count` requests, ordered by time."""
    draw = Draw(rng)
    starts = _start_times(count, days, rng)
    kinds = _workflows(starts / (days * 86400), rng)
    turns = _turns(kinds, count, rng)
    contents: list[Content] = []
    workflow: list[int] = []
    seconds: list[float] = []
    session: list[str | None] = []
    # Earlier single-turn requests, per workflow: what a repeated prompt repeats.
    singles: list[list[Content]] = [[] for _ in WORKFLOWS]
    for start, kind, length in zip(starts, kinds, turns, strict=True):
        if length == 0:
            continue
        earlier = singles[kind]
        if length == 1 and earlier and draw.chance(REPEAT_SHARE):
            written = [draw.one(earlier)]
        else:
            written = _conversation(WORKFLOWS[kind], int(length), draw)
        if length == 1:
            earlier.append(written[0])
        name = f"s-{draw.number(0, 2**40):010x}" if length > 1 or draw.chance(0.7) else None
        contents += written
        workflow += [int(kind)] * len(written)
        session += [name] * len(written)
        pauses = 20 + rng.exponential(150.0, len(written))
        seconds += list(start + np.cumsum(pauses) - pauses[0])
    order = np.argsort(seconds, kind="stable")
    return Requests(
        contents=[contents[i] for i in order],
        workflow=np.array(workflow)[order],
        seconds=np.array(seconds)[order],
        session=[session[i] for i in order],
    )


def _start_times(count: int, days: float, rng: np.random.Generator) -> Floats:
    """`count` start times in seconds since START, ascending, with the rhythm of the day and of the week."""
    hours = np.arange(int(days * 24) - 1)  # the last hour is left to conversations that are still going on
    weight = np.array(_HOURS, dtype=float)[hours % 24] * np.array(_WEEKDAYS)[hours // 24 % 7]
    chosen = rng.choice(hours, size=count, p=weight / weight.sum())
    return np.sort((chosen + rng.random(count)) * 3600.0)


def _workflows(elapsed: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """The workflow of each conversation, as an index into WORKFLOWS; the mix shifts with the elapsed share of time."""
    first = np.array([MIX[name].first_share for name in WORKFLOWS])
    last = np.array([MIX[name].last_share for name in WORKFLOWS])
    mix = first + elapsed[:, None] * (last - first)
    # A conversation brings several requests; the shares are of requests.
    mix /= np.where([has_conversations(name) for name in WORKFLOWS], MEAN_TURNS, 1.0)
    cumulative = np.cumsum(mix / mix.sum(axis=1, keepdims=True), axis=1)
    return drawn(cumulative, rng)


def drawn(cumulative: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """One column per row, drawn from cumulative probabilities of shape (n, k)."""
    below = rng.random(len(cumulative))[:, None] > cumulative
    # Rounding can leave the last cumulative probability a hair under 1.
    columns: NDArray[np.intp] = np.minimum(below.sum(axis=1), cumulative.shape[1] - 1)
    return columns


def _turns(kinds: NDArray[np.intp], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """How many turns each conversation has; 0 for those that are not needed to make `count` requests."""
    several = np.array([has_conversations(name) for name in WORKFLOWS])[kinds]
    turns = np.where(several & (rng.random(len(kinds)) < 0.45), 1 + rng.geometric(0.55, len(kinds)), 1)
    shuffled = rng.permutation(len(kinds))
    before = np.cumsum(turns[shuffled]) - turns[shuffled]
    kept = np.zeros(len(kinds), dtype=np.intp)
    kept[shuffled] = np.clip(count - before, 0, turns[shuffled])
    return kept


def _conversation(workflow: str, turns: int, draw: Draw) -> list[Content]:
    """The requests of one conversation; turn k sends everything said so far."""
    level = _level(draw)
    opener = compose(workflow, level, draw)
    system = [_message("system", system_message(workflow, draw))] if draw.chance(0.5) else []
    hidden = NOISE * float(draw.rng.standard_normal())
    if turns == 1 and draw.chance(0.55):
        tokens = _tokens([opener.text])
        return [Content(opener.text, None, opener.difficulty + hidden, opener.answer, opener.family, tokens)]
    messages = (*system, _message("user", opener.text))
    contents = [_content(messages, opener.difficulty + hidden, opener.answer, opener.family)]
    for _ in range(turns - 1):
        text, asked = follow_up(workflow, _level(draw), draw)
        messages = (*messages, _message("assistant", reply(workflow, draw)), _message("user", text))
        # What was said before goes on counting: a small question about a hard matter is not quite easy.
        difficulty = (opener.difficulty + asked) / 2
        contents.append(_content(messages, difficulty + hidden, 0.4 + 0.6 * asked, opener.family))
    return contents


def _level(draw: Draw) -> float:
    """A wished difficulty; most requests are easy to middling, with a long hard tail."""
    return float(draw.rng.beta(1.0, 1.45))


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _content(messages: tuple[Message, ...], difficulty: float, answer: float, family: str) -> Content:
    return Content(None, messages, difficulty, answer, family, _tokens([m["content"] for m in messages]))


def _tokens(texts: Sequence[str]) -> int:
    """About four characters a token, fewer outside ASCII: two in Cyrillic and Arabic, 1.3 in Devanagari and kana."""
    size = sum(len(text.encode()) for text in texts)
    return max(1, round(size / 4)) + 4 * len(texts)
