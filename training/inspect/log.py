"""What a log holds, and what a router trained on it could and could not claim; nothing is trained for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.catalogue import Candidate
from training.config import Params
from training.dataset.matrix import NO_WORKFLOW, build_matrix
from training.dataset.split import Split, SplitError, group_requests, split_requests
from training.logs.outcomes import AliasUse, Outcomes
from training.logs.same_llm import alike
from training.measure.offpolicy import MINIMUM_EFFECTIVE, effective_sample_size


@dataclass(frozen=True)
class Skipped:
    """How many rows were skipped for one reason, and where the first of them is."""

    reason: str
    rows: int
    source: str
    row: int
    field: str
    value: str
    expected: str


@dataclass(frozen=True)
class Summary:
    """The outcomes of one candidate, or of one workflow.

    `judged` and `errors` are shares of the rows; `quality` is the mean of those judged. Costs (USD), tokens and latency (ms)
    are as logged: `cost_usd`, `input_tokens` and `output_tokens` are sums, and `costed` is the share of rows with a cost.
    """

    name: str
    rows: int
    requests: int
    judged: float
    quality: float | None
    errors: float
    costed: float
    cost_usd: float
    input_tokens: int
    output_tokens: int
    latency_ms: float | None


@dataclass(frozen=True)
class CandidateSummary(Summary):
    """`in_catalogue` and `priced` as the catalogue has it; `effective_sample` is how many requests its judged outcomes are
    worth to an off-policy estimate of sending everything there, None where propensities are not known."""

    in_catalogue: bool
    priced: bool
    effective_sample: float | None


@dataclass(frozen=True)
class Target:
    """What it takes to certify that at most `alpha` of requests fail where the reference would not have.

    `requests` complete calibration requests are there; with no violation among them the bound is `best_bound`, and
    `requests_needed` would bring it down to alpha. `possible` says whether they suffice, in that best case. Otherwise
    about `more_requests` more requests have to become complete, of all parts together, which takes `more_judged_rows`
    judged outcomes: those that lack the fewest first.
    """

    quality_target: float
    alpha: float
    delta: float
    requests: int
    best_bound: float
    requests_needed: int
    possible: bool
    more_requests: int
    more_judged_rows: int


@dataclass(frozen=True)
class Finding:
    """One thing the log supports, or does not."""

    supported: bool
    what: str


@dataclass(frozen=True)
class LogReport:
    """Everything `router-train inspect` says. Shares are of rows, or of requests where they are called so.

    `complete` requests have a judged outcome of every candidate. `first` and `last` are UTC.
    """

    formats: tuple[str, ...]
    rows_read: int
    rows_used: int
    rows_skipped: int
    skipped: tuple[Skipped, ...]
    aliases: tuple[AliasUse, ...]
    requests: int
    requests_of_several_candidates: int
    requests_of_all_candidates: int
    complete: int
    sessions: int
    judged: float
    cost_usd: float
    input_tokens: int
    output_tokens: int
    first: str | None
    last: str | None
    timestamped_requests: int
    split: str
    propensities: int
    candidates: tuple[CandidateSummary, ...]
    workflows: tuple[Summary, ...]
    targets: tuple[Target, ...]
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {**asdict(self), "aliases": [use._asdict() for use in self.aliases]}


def inspect_log(table: Outcomes, catalogue: Mapping[str, Candidate], params: Params) -> LogReport:
    """The report on an outcome table, with aliases resolved; `params` as a training run would have them."""
    frame = table.frame
    tries = _tries(frame)
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
        complete=int((tries["judged"] == len(candidates)).sum()),
        sessions=int(frame["session_id"].nunique()),
        judged=float(frame["quality"].notna().mean()),
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
    return replace(report, findings=_findings(report, catalogue, params))


def requests_needed(alpha: float, delta: float, minimum: int) -> int:
    """Complete requests without a violation that bring the bound 1 - delta^(1/n) to alpha, and at least the minimum."""
    n = max(math.ceil(math.log(delta) / math.log1p(-alpha)), minimum)
    return n if best_bound(n, delta) <= alpha else n + 1


def best_bound(n: int, delta: float) -> float:
    """The exact upper bound on the violation rate after n requests without one: 1 - delta^(1/n), 1 for none."""
    return -math.expm1(math.log(delta) / n) if n else 1.0


def _tries(frame: pd.DataFrame) -> pd.DataFrame:
    """For every request, in order of appearance, how many candidates were tried and how many of these judged."""
    pairs = frame.groupby(["request_id", "candidate"], sort=False)["quality"].count().reset_index()
    grouped = pairs.assign(judged=pairs["quality"] > 0).groupby("request_id", sort=False)
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
        "costed": float(rows["cost_usd"].notna().mean()),
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
    calibration = int((complete & split.calibration).sum()) if split is not None else 0
    lacking = np.sort(m - tries["judged"].to_numpy(dtype=np.int64)[~complete])
    targets = sorted({*params.policy.targets, params.policy.quality_target}, reverse=True)
    delta = params.policy.delta
    found = []
    for target in targets:
        alpha = round(1.0 - target, 12)
        needed = requests_needed(alpha, delta, params.policy.minimum_requests)
        more = math.ceil(max(needed - calibration, 0) / params.split.calibration)
        # Beyond the requests that are there, new ones have to be run on every candidate.
        rows = int(lacking[:more].sum()) + max(more - len(lacking), 0) * m
        found.append(
            Target(target, alpha, delta, calibration, best_bound(calibration, delta), needed, more == 0, more, rows)
        )
    return tuple(found)


def _findings(report: LogReport, catalogue: Mapping[str, Candidate], params: Params) -> tuple[Finding, ...]:
    return (
        _choice(report),
        *_names(report, catalogue),
        _judgements(report),
        _costs(report),
        *_certificates(report, params),
        _single_outcomes(report),
        Finding(not report.split.startswith("not possible"), f"a split: {report.split}"),
        _tags(report),
    )


def _choice(report: LogReport) -> Finding:
    names = [candidate.name for candidate in report.candidates]
    if len(names) < 2:
        return Finding(
            False,
            f"a choice: every outcome is of {names[0]}. Send a share of the traffic to a second candidate, or import an "
            "evaluation run",
        )
    return Finding(True, f"a choice: {len(names)} candidates")


def _names(report: LogReport, catalogue: Mapping[str, Candidate]) -> list[Finding]:
    """Names that may be one LLM's, which would count apart and never be complete together."""
    rows = {candidate.name: candidate.rows for candidate in report.candidates}
    return [
        Finding(
            False,
            f"names: {', '.join(names.aliases)} may be {names.candidate} by another name. If so, make them its aliases in the "
            "catalogue",
        )
        for names in alike(rows, tuple(catalogue))
    ]


def _judgements(report: LogReport) -> Finding:
    silent = [candidate.name for candidate in report.candidates if candidate.judged == 0]
    if silent:
        return Finding(
            False,
            f"quality: no outcome of {', '.join(silent)} was judged. Add quality for some of its rows, or leave it out",
        )
    return Finding(True, f"quality: {100 * report.judged:.1f}% of rows are judged, some of every candidate")


def _costs(report: LogReport) -> Finding:
    hopeless = [c.name for c in report.candidates if c.costed < 1 and not c.priced]
    if hopeless:
        return Finding(
            False,
            f"costs: rows of {', '.join(hopeless)} have no cost and the catalogue has no price for them. "
            "`router-train catalogue` looks prices up",
        )
    computed = sum(round((1 - c.costed) * c.rows) for c in report.candidates)
    return Finding(True, f"costs: logged for {report.rows_used - computed:,} rows, {computed:,} are priced from tokens")


def _certificates(report: LogReport, params: Params) -> list[Finding]:
    found = []
    for target in report.targets:
        claim = f"a certificate at {100 * target.alpha:g}% with {100 * (1 - target.delta):g}% confidence"
        if target.possible:
            what = (
                f"{claim}: {target.requests:,} complete calibration requests, {target.requests_needed:,} do if the router "
                f"violates none of them (bound then {100 * target.best_bound:.2f}%)"
            )
        else:
            what = (
                f"{claim}: {target.requests:,} complete calibration requests (best bound {100 * target.best_bound:.2f}%), "
                f"{target.requests_needed:,} are needed without a violation among them: about {target.more_requests:,} more "
                f"requests judged on every candidate, {target.more_judged_rows:,} judged rows"
            )
            if target.requests < params.policy.minimum_requests:
                what += "; single outcomes can stand in, weighted by propensity, at a looser bound"
        found.append(Finding(target.possible, what))
    return found


def _single_outcomes(report: LogReport) -> Finding:
    if report.requests_of_all_candidates == report.requests and len(report.candidates) > 1:
        return Finding(True, "single outcomes: none, every candidate was tried on every request")
    if not report.propensities:
        return Finding(
            False,
            "propensities: not logged. Training estimates them from text and workflow, which is right only if nothing else "
            "moved the choice; log the probability with which each candidate was chosen",
        )
    thin = [c.name for c in report.candidates if (c.effective_sample or 0.0) < MINIMUM_EFFECTIVE]
    known = f"propensities: logged for {report.propensities:,} of {report.rows_used:,} rows"
    if thin:
        return Finding(
            False,
            f"{known}; too few for off-policy estimates of {', '.join(thin)} (effective sample below {MINIMUM_EFFECTIVE:g})",
        )
    return Finding(True, f"{known}, an effective sample of at least {MINIMUM_EFFECTIVE:g} for every candidate")


def _tags(report: LogReport) -> Finding:
    tagged = sum(workflow.rows for workflow in report.workflows if workflow.name != NO_WORKFLOW)
    if not tagged:
        return Finding(False, "workflows: no row has a tag; the router goes by text alone")
    return Finding(True, f"workflows: {100 * tagged / report.rows_used:.1f}% of rows are tagged")


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
