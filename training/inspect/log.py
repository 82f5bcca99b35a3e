"""What a log holds, and what a router trained on it could and could not claim; nothing is trained for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Bools, Columns
from serving.bundle.catalogue import Candidate
from training.config import JUDGEMENTS, WEAK, Params
from training.dataset.label import labels_said
from training.dataset.split import Split, SplitError, connected_requests, split_requests
from training.inspect.counts import Counts, added_up
from training.inspect.exact import exact_sums, rounded
from training.inspect.findings import findings
from training.inspect.report import CandidateSummary, LogReport, Skipped, Summary, Target
from training.inspect.rows import HELD_OUT, JUDGED, NOT_A_TIME, Rows, Whole
from training.inspect.tried import Tried, Tries, tried
from training.logs.aliases import alias_names
from training.logs.outcomes import AliasUse, OutcomeError, Outcomes
from training.logs.pairing import merge_notes

_AT_ONCE = 1_000_000  # rows


def inspect_log(table: Outcomes, catalogue: Mapping[str, Candidate], params: Params) -> LogReport:
    """The report on an outcome table, with aliases resolved; `params` as a training run would have them."""
    return replace(inspect_rows(rows_of([table]), catalogue, params), aliases=table.aliases)


def rows_of(parts: Iterable[Outcomes], progress: Callable[[int], None] | None = None) -> Rows:
    """All of a log that has to be known for the report, from its partitions, none of which is kept; `progress` gets the rows
    read so far."""
    rows = Rows()
    for part in parts:
        rows.add(part)
        if progress is not None:
            progress(rows.rows_read)
    if not rows.rows_used:
        raise OutcomeError("no usable outcome: expected at least one, got none")
    rows.close()
    return rows


def inspect_rows(rows: Rows, catalogue: Mapping[str, Candidate], params: Params) -> LogReport:
    """The report on what was read, under the names that were logged; to the last digit that of `inspect_log` on all of it."""
    named = _named(rows, catalogue)
    split, split_note = _split(rows, params)  # first, for it takes most memory
    request, cell = rows.request(), rows.cell()
    seen = _tries(rows, named, request, cell)
    everywhere = seen.tried == len(named.names)
    m, counts = len(named.names), added_up(rows.counts)
    stamp = rows.stamp()
    timed = stamp[stamp != NOT_A_TIME]
    report = LogReport(
        formats=tuple(rows.formats),
        rows_read=rows.rows_read,
        rows_used=rows.rows_used,
        rows_skipped=rows.reasons.total(),
        skipped=_skipped(rows),
        aliases=named.aliases,
        requests=rows.requests,
        requests_of_several_candidates=int((seen.tried > 1).sum()),
        requests_of_all_candidates=int(everywhere.sum()),
        chained=seen.chained,
        complete=int((seen.judged == m).sum()),
        sessions=rows.sessions,
        judged=counts.judged / counts.rows,
        labels=(labels := {name: rows.labels[name] for name in (*JUDGEMENTS, "failed", *WEAK) if rows.labels[name]}),
        labels_said=labels_said(labels, params.signals),
        cost_usd=counts.cost_usd,
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        first=_instant(timed.min()) if len(timed) else None,
        last=_instant(timed.max()) if len(timed) else None,
        timestamped_requests=_different(request[stamp != NOT_A_TIME], rows.requests),
        split=split_note,
        propensities=counts.propensities - sum(named.lost.values()),
        candidates=_candidates(rows, named, request, cell, everywhere, catalogue),
        workflows=_workflows(rows, request, cell),
        targets=_targets(seen.judged, split, m, params),
        findings=(),
    )
    return replace(report, findings=findings(report, catalogue, params))


@dataclass(frozen=True)
class _Named:
    """The candidates' names, sorted, and which of them each cell is of; which candidates' propensities are not of them alone,
    and how many rows have `lost` theirs so."""

    names: tuple[str, ...]
    of: Whole
    lost: Mapping[str, int]
    aliases: tuple[AliasUse, ...]

    @property
    def unknown(self) -> Bools:
        """(cells,) those whose propensities are not known."""
        return np.isin(self.of, [place for place, name in enumerate(self.names) if name in self.lost])


def _named(rows: Rows, catalogue: Mapping[str, Candidate]) -> _Named:
    """What `aliases.resolve` does, from counts by the names that were logged."""
    known = alias_names(catalogue)
    logged: dict[str, Counts] = {}
    for (name, _), counts in zip(rows.cells, rows.counts, strict=True):
        logged[name] = logged.get(name, Counts()) + counts
    drawn: dict[str, int] = {}
    for name, counts in logged.items():
        drawn[known.get(name, name)] = drawn.get(known.get(name, name), 0) + (counts.drawn > 0)
    lost = {
        name: sum(counts.propensities for one, counts in logged.items() if known.get(one, one) == name)
        for name, times in drawn.items()
        if times > 1
    }
    uses = tuple(
        AliasUse(name, known[name], logged[name].rows, lost.get(known[name], 0))
        for name in sorted(logged)
        if name in known
    )
    names = tuple(sorted({known.get(name, name) for name in logged}))
    of = np.array([names.index(known.get(name, name)) for name, _ in rows.cells], dtype=np.int32)
    return _Named(names, of, lost, uses)


def uncosted(rows: Rows, catalogue: Mapping[str, Candidate]) -> list[str]:
    """The candidates, by the catalogue's names, of which the cost of some outcome is not known."""
    named = _named(rows, catalogue)
    lacking = {named.names[of] for of, one in zip(named.of.tolist(), rows.counts, strict=True) if one.costed < one.rows}
    return sorted(lacking)


def notes(rows: Rows) -> tuple[str, ...]:
    """What importers had to decide, and what is to be said of requests that were told by their prompts alone."""
    by_prompt = rows.first().by_prompt
    if not by_prompt.any():
        return tuple(rows.notes)
    names = sorted({name for name, _ in rows.cells})
    of = np.array([names.index(name) for name, _ in rows.cells])
    pairs = np.unique(rows.request().astype(np.int64) * len(names) + of[rows.cell()])
    several = np.bincount(pairs // len(names), minlength=rows.requests) > 1
    return (*rows.notes, *merge_notes(int((several & by_prompt).sum()), int(by_prompt.sum())))


def requests_needed(alpha: float, delta: float, minimum: int) -> int:
    """Complete requests without a violation that bring the bound 1 - delta^(1/n) to alpha, and at least the minimum."""
    n = max(math.ceil(math.log(delta) / math.log1p(-alpha)), minimum)
    return n if best_bound(n, delta) <= alpha else n + 1


def best_bound(n: int, delta: float) -> float:
    """The exact upper bound on the violation rate after n requests without one: 1 - delta^(1/n), 1 for none."""
    return -math.expm1(math.log(delta) / n) if n else 1.0


def _tries(rows: Rows, named: _Named, request: Whole, cell: Whole) -> Tried:
    """For every request, in order of appearance, how many candidates were tried and how many of these judged."""
    known = ~np.isnan(rows.propensity()) & ~named.unknown[cell]
    return tried(Tries(request, named.of[cell], known, rows.stamp(), rows.flags()), rows.requests)


def _split(rows: Rows, params: Params) -> tuple[Split | None, str]:
    """The parts a training run would make, and how; None and why not where it could not."""
    first = rows.first()
    text, session = pd.factorize(first.text)[0], pd.factorize(first.session)[0]
    session[first.session == 0] = -1
    given = np.full(rows.requests, None, dtype=object)
    given[rows.request()[(rows.flags() & HELD_OUT) > 0]] = "test"  # a request of which any row is held out is held out
    fractions = (params.split.train, params.split.calibration, 1.0 - params.split.train - params.split.calibration)
    try:
        split = split_requests(
            connected_requests(text.astype(np.intp), first.telling, session.astype(np.intp)),
            first.stamp.view("datetime64[us]"),
            given,
            fractions=fractions,
            method=params.split.method,
            seed=params.split.seed,
        )
    except SplitError as error:
        return None, f"not possible: {error}"
    return split, split.note


def _summary(name: str, counts: Counts, requests: int) -> dict[str, Any]:
    return {
        "name": name,
        "rows": counts.rows,
        "requests": requests,
        "judged": counts.judged / counts.rows,
        "quality": counts.quality,
        "errors": counts.errors / counts.rows,
        "costed": counts.costed / counts.rows,
        "cost_usd": counts.cost_usd,
        "input_tokens": counts.input_tokens,
        "output_tokens": counts.output_tokens,
        "latency_ms": counts.latency_ms,
    }


def _candidates(
    rows: Rows,
    named: _Named,
    request: Whole,
    cell: Whole,
    everywhere: Bools,
    catalogue: Mapping[str, Candidate],
) -> tuple[CandidateSummary, ...]:
    requests = _requests_each(request, named.of[cell], len(named.names))
    samples = _effective_samples(rows, named, request, cell, everywhere)
    found = []
    for place, name in enumerate(named.names):
        entry = catalogue.get(name)
        counts = added_up(one for one, of in zip(rows.counts, named.of, strict=True) if of == place)
        found.append(
            CandidateSummary(
                **_summary(name, counts, int(requests[place])),
                in_catalogue=entry is not None,
                priced=entry is not None and entry.priced,
                effective_sample=samples[place],
            )
        )
    return tuple(found)


def _workflows(rows: Rows, request: Whole, cell: Whole) -> tuple[Summary, ...]:
    names = sorted({workflow for _, workflow in rows.cells})
    place = {name: number for number, name in enumerate(names)}
    of = np.array([place[workflow] for _, workflow in rows.cells], dtype=np.int32)
    requests = _requests_each(request, of[cell], len(names))
    counts = [Counts()] * len(names)
    for one, number in zip(rows.counts, of.tolist(), strict=True):
        counts[number] += one
    return tuple(Summary(**_summary(name, counts[number], int(requests[number]))) for number, name in enumerate(names))


def _requests_each(request: Whole, kind: Whole, kinds: int) -> Columns:
    """(kinds,) how many different requests the rows (n,) of each kind have."""
    pairs = request.astype(np.int64) * kinds + kind
    pairs.sort()
    new = np.append(True, pairs[1:] != pairs[:-1])
    return np.bincount(pairs[new] % kinds, minlength=kinds)


def _effective_samples(rows: Rows, named: _Named, request: Whole, cell: Whole, everywhere: Bools) -> list[float | None]:
    """Kish's effective sample of each candidate's judged rows; a request tried on every candidate has propensity 1."""
    m = len(named.names)
    propensity, judged = rows.propensity(), (rows.flags() & JUDGED) > 0
    sums, squares = [0] * m, [0] * m
    for start in range(0, len(cell), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        known = np.where(named.unknown[cell[part]], np.nan, propensity[part])
        known = np.where(everywhere[request[part]], 1.0, known)
        counted = judged[part] & ~np.isnan(known)
        weights, candidate = 1.0 / known[counted], named.of[cell[part]][counted].astype(np.intp)
        sums = [a + b for a, b in zip(sums, exact_sums(weights, candidate, m), strict=True)]
        squares = [a + b for a, b in zip(squares, exact_sums(weights**2, candidate, m), strict=True)]
    return [rounded(a) ** 2 / rounded(b) if b else None for a, b in zip(sums, squares, strict=True)]


def _different(request: Whole, requests: int) -> int:
    met = np.zeros(requests, dtype=np.bool_)
    met[request] = True
    return int(met.sum())


def _instant(stamp: int) -> str:
    return pd.Timestamp(int(stamp), unit="us", tz="UTC").isoformat()


def _targets(judged: Columns, split: Split | None, m: int, params: Params) -> tuple[Target, ...]:
    """What each quality target of the parameters takes, highest first."""
    m = max(m, 2)  # with one candidate in the log, every request lacks the second
    complete = judged == m
    parts = (
        split.train | split.calibration | split.test if split is not None else np.zeros(len(complete), dtype=np.bool_)
    )
    # A small log is certified on whole.
    small = parts.sum() < params.policy.cross_fit_below
    certifying = parts if small or split is None else split.calibration
    requests, share = int((complete & certifying).sum()), 1.0 if small else params.split.calibration
    lacking = np.sort(m - judged[~complete])
    targets = sorted({*params.policy.targets, params.policy.quality_target}, reverse=True)
    delta = params.policy.delta
    found = []
    for target in targets:
        alpha = round(1.0 - target, 12)
        # a part of alpha may be set aside for exploring
        tested_at = alpha * (1.0 - params.policy.explore)
        needed = requests_needed(tested_at, delta, params.policy.minimum_requests)
        more = math.ceil(max(needed - requests, 0) / share)
        # Beyond the requests that are there, new ones have to be run on every candidate.
        rows = int(lacking[:more].sum()) + max(more - len(lacking), 0) * m
        found.append(Target(target, alpha, delta, requests, best_bound(requests, delta), needed, more == 0, more, rows))
    return tuple(found)


def _skipped(rows: Rows) -> tuple[Skipped, ...]:
    """Every reason, most frequent first, with the first row it was given for."""
    named = ("source", "row", "field", "value", "expected")
    return tuple(
        Skipped(reason, count, *(getattr(rows.skipped[reason], name) for name in named))
        for reason, count in rows.reasons.most_common()
    )
