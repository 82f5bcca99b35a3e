"""Compose the simulated requests: (workflow, wished difficulty) -> text whose wording carries its difficulty."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import TypeVar

import numpy as np

from training.simulation.languages import (
    ASSISTANT_REPLIES,
    CUSTOMER_SENTENCES,
    ENGLISH_SOURCES,
    SYSTEM_MESSAGES,
    TARGETS,
    TRANSLATION_ASKS,
)
from training.simulation.vocabulary import FOLLOW_UPS, LADDERS, SLOTS, Rung

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
    return " ".join(draw.fill(draw.one(ASSISTANT_REPLIES[workflow])) for _ in range(draw.number(1, 4)))


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


_SNIPPETS = (
    "def {verb}_{noun}(self, {noun}s):\n    for item in {noun}s:\n"
    "        self.{verb}(item, retries={n1})\n    return len({noun}s)",
    "func {verb}(ctx context.Context, id int) error {\n\tmu.Lock()\n\tdefer mu.Unlock()\n"
    "\treturn store.{verb}(ctx, id, {n2})\n}",
    "export async function {verb}(id: string) {\n"
    "  const {noun} = await db.{verb}(id, { limit: {n2} });\n  return {noun}?.id;\n}",
    "public {noun} {verb}(long id) {\n    return repository.{verb}(id).orElseThrow(() -> new NotFound({n3}));\n}",
    "fn {verb}(&mut self, {noun}: Vec<u8>) -> Result<usize> {\n    self.buffer.extend({noun});\n"
    "    Ok(self.buffer.len() + {n1})\n}",
    "@app.post('/{noun}/{verb}')\ndef {verb}(body: dict):\n"
    "    rows = query('{noun}', body, limit={n2})\n    return {'{noun}': rows}",
)
# What hard reviews are about is in the code as well as in the question.
_HARD_SNIPPETS = (
    "unsafe fn {verb}(p: *mut {noun}) {\n    let old = HEAD.swap(p, Ordering::AcqRel);\n"
    "    (*p).next.store(old, Ordering::Release);\n}",
    "async def {verb}(self):\n    async with self.lock:\n        if not self.{noun}:\n"
    "            await asyncio.wait_for(self.{verb}_all(), {n1})",
    "void {verb}({noun}_t *n) {\n    pthread_mutex_lock(&n->a);\n    pthread_mutex_lock(&n->b);\n"
    "    atomic_fetch_sub(&n->refs, 1);\n}",
    "go func() {\n\tselect {\n\tcase {noun} := <-ch:\n\t\t{verb}({noun})\n\tcase <-ctx.Done():\n\t}\n}()",
)


def _code_review(level: float, draw: Draw) -> Composed:
    asks = [_rung(LADDERS["code-review"], level, draw)]
    if draw.chance(0.4):
        asks.append(_rung(LADDERS["code-review"], level * float(draw.rng.random()), draw))
    asked = " ".join(draw.fill(template) for _, template in asks)
    blocks = 1 + int(draw.rng.exponential(1.0 + 5.0 * level))
    code = "\n\n".join(draw.fill(draw.one(_HARD_SNIPPETS if draw.chance(level) else _SNIPPETS)) for _ in range(blocks))
    lead = draw.one(("Review: ", "PR review. ", "", "", "Please review this diff. "))
    text = f"{lead}{asked}\n\n```\n{code}\n```" if draw.chance(0.7) else f"```\n{code}\n```\n\n{lead}{asked}"
    return Composed(text, _combined([weight for weight, _ in asks]), 0.7 + 0.1 * min(blocks, 15))


_FIELDS = (
    "vendor",
    "invoice_number",
    "issue_date",
    "due_date",
    "currency",
    "net_total",
    "vat_rate",
    "iban",
    "address",
    "postal_code",
    "contact_name",
    "phone",
    "email",
    "line_items",
    "discount",
    "delivery_terms",
    "purchase_order",
    "tax_id",
    "country",
    "payment_method",
    "notes",
    "weight",
    "carrier",
    "tracking_code",
)
_NESTING = (
    "a flat object",
    "an object with one nested address",
    "an array of objects, each with its own totals",
    "nested arrays of line items, each with taxes and allowances",
    "a tree: parties, their sites, each site's deliveries, each delivery's lines",
)
_JSON_RULES = (
    "dates as ISO 8601",
    "amounts as integers in cents",
    "null when absent, never a guess",
    "resolve 'the same as above' to its value",
    "give a character offset for every value",
    "choose `kind` by the rule: credit note when totals are negative, otherwise invoice",
    "merge duplicate lines and reconcile them with the stated total",
)


def _json(level: float, draw: Draw) -> Composed:
    wished = draw.near(level, 0.12)
    count = 2 + int(wished * 18)
    depth = min(len(_NESTING) - 1, int(draw.near(level, 0.12) * len(_NESTING)))
    rules = min(len(_JSON_RULES), int(draw.near(level, 0.15) * 6))
    fields = [_FIELDS[i] for i in draw.rng.permutation(len(_FIELDS))[:count]]
    wanted = [_JSON_RULES[i] for i in np.sort(draw.rng.permutation(len(_JSON_RULES))[:rules])]
    lead = draw.one(("Extract", "Return as JSON", "Pull out", "Parse into JSON", "I need these fields as JSON"))
    text = f"{lead}: {', '.join(fields)}. Shape: {_NESTING[depth]}."
    if wanted:
        text += " Rules: " + "; ".join(wanted) + "."
    text += "\n\n" + _document(2 + int(draw.rng.exponential(3 + 10 * level)), draw, _PAPERS)
    difficulty = 0.4 * min(1.0, (count - 2) / 18) + 0.35 * depth / (len(_NESTING) - 1) + 0.25 * rules / 6
    return Composed(text, min(1.0, difficulty), 0.3 + count / 9 + 0.25 * depth)


_PAPERS = (
    "{company}, {n2} Mill Road, {city}.",
    "Invoice {n3}-{n2}, issued {day} {month}.",
    "{n1} x {item} at {money} each.",
    "Terms: {n2} days net, {n1}% discount if paid within {n1} days.",
    "Contact: {person}, extension {n3}.",
    "VAT {day}% included, total due {money}.",
    "Ship to: the same as above, attention {person}.",
    "Carrier reference {n3}{n3}, weight {n2} kg.",
    "Credit of {money} carried over from {month}.",
)
_REPORTS = (
    "In {month}, {subject} {claim} {reason}.",
    "{person}, who speaks for {company}, said that {subject} {claim}.",
    "The cost rose from {money} to {money} {reason}.",
    "By contrast, {subject} {claim}, which {person} disputes.",
    "Of {n3} households in {city}, {n2} percent agreed.",
    "A second source says that {subject} never {claim}.",
    "The committee met {n1} times and decided nothing {reason}.",
    "{company} {claim} {reason}, according to {person}.",
    "Local {job}s in {city} remain unconvinced.",
    "The next review is due in {month}.",
)


def _document(sentences: int, draw: Draw, templates: Sequence[str]) -> str:
    return " ".join(draw.fill(draw.one(templates)) for _ in range(sentences))


def _summarising(level: float, draw: Draw) -> Composed:
    asks = [_rung(LADDERS["summarising"], level, draw)]
    if draw.chance(0.35):
        asks.append(_rung(LADDERS["summarising"], level * float(draw.rng.random()), draw))
    sentences = min(320, 4 + int(draw.rng.exponential(12 + 60 * level)))
    asked = " ".join(draw.fill(template) for _, template in asks)
    body = _document(sentences, draw, _REPORTS)
    text = f"{asked}\n\n{body}" if draw.chance(0.75) else f"{body}\n\n{asked}"
    difficulty = 0.8 * _combined([weight for weight, _ in asks]) + 0.2 * min(1.0, sentences / 120)
    return Composed(text, difficulty, 0.35 + 0.8 * asks[0][0] + 0.3 * min(2.0, sentences / 80))


_KINDS = tuple(ENGLISH_SOURCES)
_TARGET_NAMES = tuple(name for name in TARGETS if name != "English")


def _translation(level: float, draw: Draw) -> Composed:
    if draw.chance(0.4):
        language = draw.one(tuple(CUSTOMER_SENTENCES))
        target, source = "English", language
        pairs = [_rung(CUSTOMER_SENTENCES[language], level, draw) for _ in range(_sentence_count(level, draw))]
        base = 0.9 * max(weight for weight, _ in pairs)
        sentences = [template for _, template in pairs]
    else:
        target = source = draw.one(_TARGET_NAMES)
        wished = draw.near(level - TARGETS[target], 0.08)
        kind = min(_KINDS, key=lambda name: abs(ENGLISH_SOURCES[name][0] - wished))
        base, templates = ENGLISH_SOURCES[kind]
        sentences = [draw.one(templates) for _ in range(_sentence_count(level, draw))]
    body = " ".join(draw.fill(template) for template in sentences)
    ask = draw.one(TRANSLATION_ASKS).replace("{target}", target)
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
        language = draw.one(tuple(CUSTOMER_SENTENCES))
        ladder, family = CUSTOMER_SENTENCES[language], _family(language)
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
