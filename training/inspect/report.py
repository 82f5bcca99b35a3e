"""What `router-train inspect` says of a log, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.inspect.unread import Unread
from training.logs.outcomes import AliasUse


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
    are as logged: `cost_usd`, `input_tokens` and `output_tokens` are sums, `costed` is the share of rows whose cost is known.
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

    `requests` complete requests are there to certify on; with no violation among them the bound is `best_bound`, and
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

    `labels` are the rows with a quality, by where that is from, and `labels_said` says so unless all were judged. `complete`
    requests have a judged outcome of every candidate. `chained` outcomes came after another candidate's failure.
    `first` and `last` are UTC. `unread` are the columns of tables of one's own that nothing reads.
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
    chained: int
    complete: int
    sessions: int
    judged: float
    labels: Mapping[str, int]
    labels_said: str | None
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
    unread: tuple[Unread, ...] = ()

    def document(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        named = {"aliases": [use._asdict() for use in self.aliases], "unread": [one._asdict() for one in self.unread]}
        return {**asdict(self), **named}
