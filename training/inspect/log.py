"""What a log holds, and what a router trained on it could and could not claim; nothing is trained for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import NO_WORKFLOW
from training.config import Params
from training.dataset.label import judged_quality, label_kinds, labels_said
from training.dataset.matrix import build_matrix
from training.dataset.split import Split, SplitError, group_requests, split_requests
from training.dataset.tries import costed, one_outcome_each
from training.inspect.findings import findings
from training.inspect.report import CandidateSummary, LogReport, Skipped, Summary, Target
from training.logs.outcomes import Outcomes
from training.measure.offpolicy import effective_sample_size


def inspect_log(table: Outcomes, catalogue: Mapping[str, Candidate], params: Params) -> LogReport:
    """The report on an outcome table, with aliases resolved; `params` as a training run would have them."""
    kinds = label_kinds(table.frame)
    frame = table.frame.assign(quality=judged_quality(table.frame))
    outcomes = one_outcome_each(frame)
    tries = _tries(outcomes[~outcomes["chained"]])
    split, split_note = _split(frame, params)
    everywhere = tries["tried"] == frame["candidate"].nunique()
    candidates = tuple(
        _candidate(str(name), rows, catalogue, everywhere) for name, rows in frame.groupby("candidate", sort=True)
    )
    workflows = frame["workflow"].fillna(NO_WORKFLOW)
    targets = _targets(tries, split, len(candidates), params)
    stamps = frame["timestamp"]
    report = LogReport(
        formats=table.formats,
        rows_read=table.rows_read,
        rows_used=len(frame),
        rows_skipped=len(table.skipped),
        skipped=_skipped(table),
        aliases=table.aliases,
        requests=len(tries),
        requests_of_several_candidates=int((tries["tried"] > 1).sum()),
        requests_of_all_candidates=int(everywhere.sum()),
        chained=int(outcomes["chained"].sum()),
        complete=int((tries["judged"] == len(candidates)).sum()),
        sessions=int(frame["session_id"].nunique()),
        judged=float(frame["quality"].notna().mean()),
        labels=kinds,
        labels_said=labels_said(kinds, params.signals),
        cost_usd=_sum(frame["cost_usd"]),
        input_tokens=int(frame["input_tokens"].sum()),
        output_tokens=int(frame["output_tokens"].sum()),
        first=stamps.min().isoformat() if stamps.notna().any() else None,
        last=stamps.max().isoformat() if stamps.notna().any() else None,
        timestamped_requests=int(frame.loc[stamps.notna(), "request_id"].nunique()),
        split=split_note,
        propensities=int(frame["propensity"].notna().sum()),
        candidates=candidates,
        workflows=tuple(Summary(**_summary(str(name), rows)) for name, rows in frame.groupby(workflows, sort=True)),
        targets=targets,
        findings=(),
    )
    return replace(report, findings=findings(report, catalogue, params))


def requests_needed(alpha: float, delta: float, minimum: int) -> int:
    """Complete requests without a violation that bring the bound 1 - delta^(1/n) to alpha, and at least the minimum."""
    n = max(math.ceil(math.log(delta) / math.log1p(-alpha)), minimum)
    return n if best_bound(n, delta) <= alpha else n + 1


def best_bound(n: int, delta: float) -> float:
    """The exact upper bound on the violation rate after n requests without one: 1 - delta^(1/n), 1 for none."""
    return -math.expm1(math.log(delta) / n) if n else 1.0


def _tries(chosen: pd.DataFrame) -> pd.DataFrame:
    """For every request, in order of appearance, how many candidates were tried and how many of these judged."""
    grouped = chosen.assign(judged=chosen["quality"].notna()).groupby("request_id", sort=False)
    return pd.DataFrame({"tried": grouped.size(), "judged": grouped["judged"].sum()})


def _split(frame: pd.DataFrame, params: Params) -> tuple[Split | None, str]:
    """The parts a training run would make, and how; None and why not where it could not."""
    # Under one candidate's name, for only what belongs to requests is asked for: the matrices stay one column wide.
    requests = build_matrix(frame.assign(candidate="any"))
    fractions = (params.split.train, params.split.calibration, 1.0 - params.split.train - params.split.calibration)
    try:
        split = split_requests(
            group_requests(list(requests.texts), list(requests.session_id)),
            requests.timestamp,
            requests.given_split,
            fractions=fractions,
            method=params.split.method,
            seed=params.split.seed,
        )
    except SplitError as error:
        return None, f"not possible: {error}"
    return split, split.note


def _summary(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "name": name,
        "rows": len(rows),
        "requests": int(rows["request_id"].nunique()),
        "judged": float(rows["quality"].notna().mean()),
        "quality": _mean(rows["quality"]),
        "errors": float((rows["status"] == "error").mean()),
        "costed": float(costed(rows).mean()),
        "cost_usd": _sum(rows["cost_usd"]),
        "input_tokens": int(rows["input_tokens"].sum()),
        "output_tokens": int(rows["output_tokens"].sum()),
        "latency_ms": _mean(rows["latency_ms"]),
    }


def _candidate(
    name: str, rows: pd.DataFrame, catalogue: Mapping[str, Candidate], everywhere: pd.Series[bool]
) -> CandidateSummary:
    entry = catalogue.get(name)
    return CandidateSummary(
        **_summary(name, rows),
        in_catalogue=entry is not None,
        priced=entry is not None and entry.priced,
        effective_sample=_effective_sample(rows, everywhere),
    )


def _effective_sample(rows: pd.DataFrame, everywhere: pd.Series[bool]) -> float | None:
    """Kish's effective sample of a candidate's judged rows; a request tried on every candidate has propensity 1."""
    judged = rows[rows["quality"].notna()]
    certain = judged["request_id"].map(everywhere).astype(bool)
    known = judged["propensity"].mask(certain, 1.0).dropna().to_numpy(dtype=np.float64)
    return effective_sample_size(1.0 / known) if len(known) else None


def _targets(tries: pd.DataFrame, split: Split | None, m: int, params: Params) -> tuple[Target, ...]:
    """What each quality target of the parameters takes, highest first."""
    m = max(m, 2)  # with one candidate in the log, every request lacks the second
    complete = (tries["judged"] == m).to_numpy()
    parts = (
        split.train | split.calibration | split.test if split is not None else np.zeros(len(complete), dtype=np.bool_)
    )
    # A small log is certified on whole.
    small = parts.sum() < params.policy.cross_fit_below
    certifying = parts if small or split is None else split.calibration
    requests, share = int((complete & certifying).sum()), 1.0 if small else params.split.calibration
    lacking = np.sort(m - tries["judged"].to_numpy(dtype=np.int64)[~complete])
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


def _skipped(table: Outcomes) -> tuple[Skipped, ...]:
    """Every reason, most frequent first, with the first row it was given for."""
    first = {str(row.reason): row for row in table.skipped.drop_duplicates("reason").itertuples(index=False)}
    return tuple(
        Skipped(
            reason, rows, *(getattr(first[reason], name) for name in ("source", "row", "field", "value", "expected"))
        )
        for reason, rows in table.reasons.items()
    )


def _mean(column: pd.Series[Any]) -> float | None:
    return float(column.mean()) if column.notna().any() else None


def _sum(column: pd.Series[Any]) -> float:
    """Exact to the cent over millions of rows: added up without losing small terms."""
    return math.fsum(column.dropna().tolist())
