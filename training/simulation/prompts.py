"""Compose the simulated requests: (workflow, wished difficulty) -> text whose wording carries its difficulty."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import TypeVar

import numpy as np

from training.simulation.vocabulary import (
    CUSTOMERS,
    ENGLISH,
    FOLLOW_UPS,
    LADDERS,
    PARTS,
    REPLIES,
    SLOTS,
    SYSTEM_MESSAGES,
    TARGETS,
    Rung,
)

T = TypeVar("T")

_SLOT = re.compile(r"\{(\w+)\}")
# What the number slots stand for: [low, high).
_NUMBERS = {"day": (1, 29), "n1": (2, 10), "n2": (11, 99), "n3": (120, 980)}
# Language families a candidate can be better or worse at than its general ability says.
WESTERN = frozenset({"German", "French", "Spanish", "Portuguese", "Italian", "Dutch", "Polish"})
EASTERN = frozenset({"Japanese", "Korean", "Hindi", "Arabic", "Khmer", "Russian"})


class Draw:
    """Random choices on one numpy Generator; cheap scalar draws, because a log makes millions of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def number(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return low + int(self.rng.random() * (high - low))

    def one(self, items: Sequence[T]) -> T:
        """One item, uniformly."""
        return items[int(self.rng.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return bool(self.rng.random() < probability)

    def near(self, level: float, spread: float = 0.1) -> float:
        """A difficulty around `level`, kept in [0, 1]."""
        return min(1.0, max(0.0, level + spread * float(self.rng.standard_normal())))

    def fill(self, template: str) -> str:
        """The template with each {slot} replaced by a draw; unknown slots stay as they are."""
        return _SLOT.sub(self._slot, template)

    def _slot(self, match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in _NUMBERS:
            return str(self.number(*_NUMBERS[slot]))
        words = SLOTS.get(slot)
        return self.one(words) if words else match.group(0)


@dataclass(frozen=True)
class Composed:
    """A composed user text: its difficulty in [0, 1], how long an answer it asks for (1 = usual), its family."""

    text: str
    difficulty: float
    answer: float = 1.0
    family: str = "english"


def compose(workflow: str, level: float, draw: Draw) -> Composed:
    """Write one user text of a workflow, about as hard as `level` in [0, 1]; the text's own difficulty is returned."""
    return _COMPOSERS[workflow](level, draw)


def follow_up(workflow: str, level: float, draw: Draw) -> tuple[str, float]:
    """A later user turn of a conversation, and its difficulty."""
    difficulty, template = _rung(FOLLOW_UPS[workflow], level, draw)
    return draw.fill(template), difficulty


def reply(workflow: str, draw: Draw) -> str:
    """What the assistant answered on an earlier turn."""
    return " ".join(draw.fill(draw.one(REPLIES[workflow])) for _ in range(draw.number(1, 4)))


def system_message(workflow: str, draw: Draw) -> str:
    """A system message for a workflow."""
    return draw.fill(draw.one(SYSTEM_MESSAGES[workflow]))


def has_conversations(workflow: str) -> bool:
    """Whether requests of this workflow come in several turns."""
    return workflow in FOLLOW_UPS


def _rung(ladder: Sequence[Rung], level: float, draw: Draw) -> tuple[float, str]:
    wished = draw.near(level, 0.06)
    difficulty, wordings = min(ladder, key=lambda rung: abs(rung[0] - wished))
    return difficulty, draw.one(wordings)


def _combined(difficulties: Sequence[float]) -> float:
    """The hardest ask counts in full, the others close part of the way to 1."""
    hardest = max(difficulties)
    return hardest + (1 - hardest) * (1 - exp(-0.35 * (sum(difficulties) - hardest)))


def _sql(level: float, draw: Draw) -> Composed:
    asks = [_rung(LADDERS["sql"], level, draw)]
    for _ in range(draw.number(0, 3)):
        asks.append(_rung(LADDERS["sql"], level * float(draw.rng.random()), draw))
    text = draw.one(("", "", "Write a query: ", "SQL for this please: ", "I need to ", "Postgres. "))
    text += "; also ".join(draw.fill(template) for _, template in asks)
    if draw.chance(0.6):
        text += "\n\nSchema:\n" + "\n".join(_table(draw) for _ in range(draw.number(1, 3 + int(4 * level))))
    return Composed(text, _combined([weight for weight, _ in asks]), 0.6 + 0.4 * len(asks))


def _table(draw: Draw) -> str:
    name = draw.one(SLOTS[draw.one(("table", "other", "third"))])
    columns = {draw.one(SLOTS["column"]): "numeric" for _ in range(draw.number(2, 7))}
    listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    return f"{name}(id bigint, {draw.one(SLOTS['other'])}_id bigint, {listed}, created_at timestamptz)"


def _maths(level: float, draw: Draw) -> Composed:
    difficulty, template = _rung(LADDERS["maths"], level, draw)
    text = draw.fill(template)
    weights = [difficulty]
    if draw.chance(0.25):
        weight, second = _rung(LADDERS["maths"], level * 0.8, draw)
        text += draw.one((" Then: ", "\nSecond question: ", " Also, ")) + draw.fill(second)
        weights.append(weight)
    answer = 0.4 + 1.2 * difficulty
    if draw.chance(0.3):
        text += draw.one((" Show every step.", " Explain your reasoning in detail.", " Justify each line."))
        answer *= 1.6
    elif draw.chance(0.3):
        text += draw.one((" Only the number.", " Answer only.", " No explanation."))
        answer *= 0.5
    return Composed(text, _combined(weights), answer)


def _code_review(level: float, draw: Draw) -> Composed:
    asks = [_rung(LADDERS["code-review"], level, draw)]
    if draw.chance(0.4):
        asks.append(_rung(LADDERS["code-review"], level * float(draw.rng.random()), draw))
    asked = " ".join(draw.fill(template) for _, template in asks)
    blocks = 1 + int(draw.rng.exponential(1.0 + 5.0 * level))
    # What hard reviews are about is in the code as well as in the question.
    kinds = ("hard_snippets" if draw.chance(level) else "snippets" for _ in range(blocks))
    code = "\n\n".join(draw.fill(draw.one(PARTS[kind])) for kind in kinds)
    lead = draw.one(("Review: ", "PR review. ", "", "", "Please review this diff. "))
    text = f"{lead}{asked}\n\n```\n{code}\n```" if draw.chance(0.7) else f"```\n{code}\n```\n\n{lead}{asked}"
    return Composed(text, _combined([weight for weight, _ in asks]), 0.7 + 0.1 * min(blocks, 15))


def _json(level: float, draw: Draw) -> Composed:
    wished = draw.near(level, 0.12)
    names, nesting, known = PARTS["fields"], PARTS["nesting"], PARTS["json_rules"]
    count = 2 + int(wished * 18)
    depth = min(len(nesting) - 1, int(draw.near(level, 0.12) * len(nesting)))
    rules = min(len(known), int(draw.near(level, 0.15) * 6))
    fields = [names[i] for i in draw.rng.permutation(len(names))[:count]]
    wanted = [known[i] for i in np.sort(draw.rng.permutation(len(known))[:rules])]
    lead = draw.one(("Extract", "Return as JSON", "Pull out", "Parse into JSON", "I need these fields as JSON"))
    text = f"{lead}: {', '.join(fields)}. Shape: {nesting[depth]}."
    if wanted:
        text += " Rules: " + "; ".join(wanted) + "."
    text += "\n\n" + _document(2 + int(draw.rng.exponential(3 + 10 * level)), draw, PARTS["papers"])
    difficulty = 0.4 * min(1.0, (count - 2) / 18) + 0.35 * depth / (len(nesting) - 1) + 0.25 * rules / 6
    return Composed(text, min(1.0, difficulty), 0.3 + count / 9 + 0.25 * depth)


def _document(sentences: int, draw: Draw, templates: Sequence[str]) -> str:
    return " ".join(draw.fill(draw.one(templates)) for _ in range(sentences))


def _summarising(level: float, draw: Draw) -> Composed:
    asks = [_rung(LADDERS["summarising"], level, draw)]
    if draw.chance(0.35):
        asks.append(_rung(LADDERS["summarising"], level * float(draw.rng.random()), draw))
    sentences = min(320, 4 + int(draw.rng.exponential(12 + 60 * level)))
    asked = " ".join(draw.fill(template) for _, template in asks)
    body = _document(sentences, draw, PARTS["reports"])
    text = f"{asked}\n\n{body}" if draw.chance(0.75) else f"{body}\n\n{asked}"
    difficulty = 0.8 * _combined([weight for weight, _ in asks]) + 0.2 * min(1.0, sentences / 120)
    return Composed(text, difficulty, 0.35 + 0.8 * asks[0][0] + 0.3 * min(2.0, sentences / 80))


_KINDS = tuple(ENGLISH)
_TARGET_NAMES = tuple(name for name in TARGETS if name != "English")


def _translation(level: float, draw: Draw) -> Composed:
    if draw.chance(0.4):
        language = draw.one(tuple(CUSTOMERS))
        target, source = "English", language
        pairs = [_rung(CUSTOMERS[language], level, draw) for _ in range(_sentence_count(level, draw))]
        base = 0.9 * max(weight for weight, _ in pairs)
        sentences = [template for _, template in pairs]
    else:
        target = source = draw.one(_TARGET_NAMES)
        wished = draw.near(level - TARGETS[target], 0.08)
        kind = min(_KINDS, key=lambda name: abs(ENGLISH[name][0] - wished))
        base, templates = ENGLISH[kind]
        sentences = [draw.one(templates) for _ in range(_sentence_count(level, draw))]
    body = " ".join(draw.fill(template) for template in sentences)
    ask = draw.one(PARTS["translation_asks"]).replace("{target}", target)
    difficulty = base + TARGETS[source] if source in TARGETS else base
    answer = max(0.1, len(body.encode()) / 400)
    return Composed(ask + body, min(1.0, difficulty + 0.02 * min(len(sentences), 6)), answer, _family(source))


def _sentence_count(level: float, draw: Draw) -> int:
    return 1 + min(60, int(draw.rng.exponential(1.5 + 5 * level)))


def _family(language: str) -> str:
    if language in WESTERN:
        return "western"
    return "eastern" if language in EASTERN else "rare"


def _creative(level: float, draw: Draw) -> Composed:
    difficulty, template = _rung(LADDERS["creative-writing"], level, draw)
    text, weights = draw.fill(template), [difficulty]
    if draw.chance(0.35):
        weight, second = _rung(LADDERS["creative-writing"], level * 0.6, draw)
        text += draw.one((" Then: ", " Follow it with this: ", "\n\nAfter that: ")) + draw.fill(second)
        weights.append(weight)
    if draw.chance(0.5):
        text += draw.fill(
            draw.one(
                (
                    " Keep it {mood}.",
                    " Mention {city}.",
                    " The hero is {person}, a {job}.",
                    " For {audience}.",
                    " {n2} lines at most.",
                )
            )
        )
    return Composed(text, _combined(weights), 0.35 + 0.8 * difficulty + 0.4 * (len(weights) - 1))


def _support(level: float, draw: Draw) -> Composed:
    if draw.chance(0.3):
        language = draw.one(tuple(CUSTOMERS))
        ladder, family = CUSTOMERS[language], _family(language)
    else:
        ladder, family = LADDERS["support-triage"], "english"
    issues = [_rung(ladder, level, draw)]
    for _ in range(int(draw.rng.exponential(0.4 + 1.6 * level))):
        issues.append(_rung(ladder, level * float(draw.rng.random()), draw))
    text = " ".join(draw.fill(template) for _, template in issues)
    if family == "english":
        text = draw.one(("", "", "Hi, ", "Hello. ", "Urgent: ", "Dear team, ")) + text
        text += draw.fill(draw.one(("", "", " Thanks, {person}", " Order {n3}-{n3}.", " Regards, {person}, {city}")))
    return Composed(text, _combined([weight for weight, _ in issues]), 0.6 + 0.25 * len(issues), family)


_COMPOSERS: dict[str, Callable[[float, Draw], Composed]] = {
    "support-triage": _support,
    "sql": _sql,
    "code-review": _code_review,
    "json-extraction": _json,
    "summarising": _summarising,
    "maths": _maths,
    "translation": _translation,
    "creative-writing": _creative,
}
WORKFLOWS: tuple[str, ...] = tuple(_COMPOSERS)
