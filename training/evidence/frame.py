"""The sampling frame: which requests of a log answers can be bought for, and what each answer is expected to cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.request import read
from serving.decide.pricing import Pricing
from training.config import Params
from training.dataset.inputs import Inputs, Progress, encode_with, silent
from training.dataset.kinds import find_kinds
from training.dataset.label import acceptable
from training.dataset.matrix import Objects, OutcomeMatrix, build_matrix
from training.dataset.split import group_requests
from training.errors import TrainingError
from training.evidence.belief import Shape
from training.learn.costs import cost_sources, fit_costs
from training.learn.estimators.design import Design
from training.logs.outcomes import Outcomes
from training.logs.redact import STAND_INS
from training.prices.costs import fill_costs

_DIMS = 16
KNOWN = "every outcome is known"
# What `--redact` puts in the place of what it masks, and what other tools do: such a prompt is not the one that was asked.
_MASKED = re.compile(
    "|".join(map(re.escape, STAND_INS.values()))
    + r"|redacted-by-litellm|[\[<(]\s*redacted\b|\[(?:EMAIL|PHONE|NAME|KEY|CARD|PII)[A-Z_]*\]"
    r"|<(?:PERSON|EMAIL_ADDRESS|PHONE_NUMBER|CREDIT_CARD|LOCATION|IP_ADDRESS|IBAN_CODE|US_SSN)>",
    re.IGNORECASE,
)


class EvidenceError(TrainingError):
    """A log for which nothing can be bought: says what is missing and what to do."""


@dataclass(frozen=True)
class SamplingFrame:
    """n requests by m candidates, of a log and of those named besides.

    `labels` (n, m) are 1 acceptable, 0 not, NaN not known, `taught` those that were bought to learn from; `answers` (n, m) the
    text of what was answered and not judged, None where there is none: it has to be graded alone. `cost_usd` and
    `output_tokens` (n, m) are what an answer is expected to cost and to be long; `sendable` (n,) the requests that can be asked
    again, of the others `left_out` says how many there are for each reason. `shape` is what the belief sees of all.
    """

    matrix: OutcomeMatrix
    candidates: tuple[Candidate, ...]
    labels: Floats
    taught: Bools
    answers: Objects
    parameters: Mapping[str, str]
    expected: Mapping[str, str]
    cost_usd: Floats
    output_tokens: Floats
    groups: Columns
    shape: Shape
    sendable: Bools
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answered(self) -> Bools:
        """(n, m) whether an answer was logged that nobody judged."""
        return np.asarray(self.answers != None)  # noqa: E711, of each cell

    @property
    def unasked(self) -> int:
        """How many requests nobody can be asked about, of which a certificate will not speak."""
        return sum(count for reason, count in self.left_out.items() if reason != KNOWN)

    @property
    def fair(self) -> Floats:
        """(n, m) the labels that may certify: without those of outcomes that were chosen for what they teach."""
        return np.asarray(np.where(self.taught, np.nan, self.labels))

    @property
    def unknown(self) -> Bools:
        """(n, m) the outcomes that can be bought to certify on."""
        return np.asarray(~np.isfinite(self.fair) & self.sendable[:, None])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(candidate.name for candidate in self.candidates)


def sampling_frame(
    table: Outcomes,
    params: Params,
    catalogue: Mapping[str, Candidate],
    cache: Path,
    *,
    others: Sequence[str] = (),
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> SamplingFrame:
    """The frame of a log, with the candidates `others` that it need not have any outcome of; `only` these where any are named.

    Raises EvidenceError where there is nothing to choose between, or nothing to send.
    """
    frame = table.frame
    names = _names(frame, catalogue, others, only)
    matrix, _ = fill_costs(build_matrix(frame, names), catalogue, params.costs.assumed_output_tokens)
    candidates = tuple(catalogue.get(name, Candidate(name=name)) for name in names)
    tagged = tuple(sorted({name for name in matrix.workflow if name is not None}))
    inputs, _ = encode_with("static", matrix, tagged, params.embed, cache, progress)
    groups = group_requests(list(matrix.texts), list(matrix.session_id))
    tokens, cost = _expected(matrix, candidates, inputs, params)
    sendable, left_out = _sendable(matrix, candidates)
    left_out += Counter({reason: rows for reason, rows in table.reasons.items() if reason == "no prompt"})
    if not sendable.any():
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in left_out.items())
        raise EvidenceError(
            f"none of {len(matrix):,} requests can be asked again ({reasons}); nothing can be bought for this log"
        )
    return SamplingFrame(
        matrix=matrix,
        candidates=candidates,
        labels=acceptable(matrix.quality, params.label.acceptable),
        taught=matrix.learning,
        answers=_answers(table, matrix),
        parameters=_first_beside(table, "parameters"),
        expected=_first_beside(table, "expected"),
        cost_usd=cost,
        output_tokens=tokens,
        groups=groups,
        shape=_shape(matrix, inputs, groups, cost, params),
        sendable=sendable,
        left_out=dict(left_out.most_common()),
    )


def _names(
    frame: pd.DataFrame, catalogue: Mapping[str, Candidate], others: Sequence[str], only: Sequence[str]
) -> tuple[str, ...]:
    logged = sorted(set(frame["candidate"]))
    if unknown := sorted(set(others) - set(logged) - set(catalogue)):
        raise EvidenceError(
            f"--candidate {', '.join(unknown)}: neither the log nor the catalogue knows it; add it to candidates.toml with its "
            "price"
        )
    names = sorted({*logged, *others})
    if only:
        if strange := sorted(set(only) - set(names)):
            raise EvidenceError(f"--only {', '.join(strange)}: the log has {', '.join(names)}")
        names = sorted(set(only))
    if len(names) < 2:
        raise EvidenceError(
            f"there is one candidate only ({names[0]}): name those that might answer as well for less, as in "
            "--candidate NAME with NAME from candidates.toml or the shipped catalogue"
        )
    unpriced = [name for name in names if not (name in catalogue and catalogue[name].priced)]
    bare = [name for name in unpriced if not (frame["candidate"] == name).any()]
    if bare:
        raise EvidenceError(
            f"{', '.join(bare)} has no price: give input_usd_per_mtok and output_usd_per_mtok in candidates.toml, or "
            "`router-train catalogue --write`"
        )
    return tuple(names)


def _expected(
    matrix: OutcomeMatrix, candidates: tuple[Candidate, ...], inputs: Inputs, params: Params
) -> tuple[Floats, Floats]:
    """(n, m) tokens of an answer and what it costs in USD; of a candidate without lengths in the log, as of others."""
    sources = cost_sources(matrix, {one.name: one for one in candidates})
    sources |= {one.name: "tokens" for place, one in enumerate(candidates) if not matrix.attempted[:, place].any()}
    model = fit_costs(
        inputs,
        matrix,
        candidates,
        sources,
        shared=params.costs.shared_penalty,
        own=params.costs.own_penalty,
        assumed_output_tokens=params.costs.assumed_output_tokens,
    )
    tokens = model.output_tokens.predict(inputs)
    typical = np.full((len(tokens), 1), params.costs.assumed_output_tokens)
    if np.isfinite(tokens).any():
        typical = np.nanmean(tokens, axis=1, keepdims=True)
    tokens = np.where(np.isfinite(tokens), tokens, typical)
    pricing = Pricing(candidates, sources, model.usual)
    return tokens, pricing.expected(inputs.counted, tokens, model.logged_cost.predict(inputs))


def _answers(table: Outcomes, matrix: OutcomeMatrix) -> Objects:
    """(n, m) the last answer that was logged of each outcome that nobody judged."""
    found = np.full(matrix.quality.shape, None, dtype=object)
    if "answer" not in table.beside:
        return found
    rows = {name: place for place, name in enumerate(matrix.request_id)}
    columns = {name: place for place, name in enumerate(matrix.candidates)}
    frame = table.frame
    for request, candidate, answer in zip(frame["request_id"], frame["candidate"], table.beside["answer"], strict=True):
        if isinstance(answer, str) and request in rows and candidate in columns:
            found[rows[request], columns[candidate]] = answer
    found[np.isfinite(matrix.quality) | matrix.chained] = None
    return found


def _first_beside(table: Outcomes, name: str) -> dict[str, str]:
    """By request, the first text that came beside its rows under this name."""
    if name not in table.beside:
        return {}
    pairs = zip(table.frame["request_id"], table.beside[name], strict=True)
    return {request: text for request, text in reversed(list(pairs)) if isinstance(text, str)}


def _sendable(matrix: OutcomeMatrix, candidates: Sequence[Candidate]) -> tuple[Bools, Counter[str]]:
    """Which requests can be asked again, and of the others how many there are for each reason."""
    windows = [one.context_window for one in candidates if one.context_window is not None]
    room = min(windows, default=None)
    reasons: Counter[str] = Counter()
    sendable = np.ones(len(matrix), dtype=np.bool_)
    complete = matrix.complete()
    for row, (request, text) in enumerate(zip(matrix.requests, matrix.texts, strict=True)):
        seen = read(request)
        if complete[row]:
            reason = KNOWN
        elif _MASKED.search(text):
            reason = "masked"
        elif any(getattr(one, need) is not True for need in seen.needs for one in candidates):
            reason = "needs what not every candidate is known to do"
        elif room is not None and seen.said > 0.8 * room:
            reason = "too long for a candidate"
        else:
            continue
        sendable[row] = False
        reasons[reason] += 1
    return sendable, reasons


def _shape(matrix: OutcomeMatrix, inputs: Inputs, groups: Columns, cost: Floats, params: Params) -> Shape:
    """What the belief sees; where no request has a tag, kinds of work stand for workflows."""
    text = inputs.untagged()
    width = text.embedding.shape[1] + text.surface
    columns = Design.learn(text).columns(text)[:, :width]
    _, directions = np.linalg.eigh(columns.T @ columns)
    seen = columns @ directions[:, -_DIMS:]
    seen = seen / max(float(np.sqrt(seen.var(axis=0).sum())), 1e-9)
    names = sorted({name for name in matrix.workflow if name is not None})
    if names:
        place = {name: number for number, name in enumerate(names)}
        workflow = np.array([-1 if name is None else place[name] for name in matrix.workflow], dtype=np.intp)
    else:
        kinds = find_kinds(
            inputs.embedding, matrix.texts.tolist(), groups, params.fit.most_kinds, params.fit.seed, named=False
        )
        workflow = np.zeros(len(matrix), dtype=np.intp) if kinds is None else kinds.of(inputs.embedding)
        names = ["all"] if kinds is None else list(kinds.names)
    price = np.log(np.maximum(cost.mean(axis=0), 1e-12))
    return Shape(seen, workflow, len(names), (price - price.mean()) / max(float(price.std()), 1e-9))
