"""The filter of deployments: those of the best rank that is healthy and has not been tried.

LiteLLM offers a failed deployment again on a retry, so what was tried is remembered. Deployments of one candidate are tried one
after the other before the next rank is; when all have been, the one that failed least comes again, for an empty list would fail
the call. Where pre-call checks or tags are on, a rank that they would take away whole is passed over while another is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving.integrations.litellm.decided import Decided
from serving.integrations.litellm.rows import Deployment, candidate_of, id_of

Fits = Callable[[Deployment], bool]


def picked(
    deployments: Sequence[Deployment],
    decided: Decided,
    request: Mapping[str, Any],
    metadata: Mapping[str, Any],
    fits: Fits,
) -> list[Deployment]:
    """The deployments that this pick is left with; empty where none serves a candidate that may answer."""
    by_rank: dict[str, list[Deployment]] = {name: [] for name in decided.ranks}
    for row in deployments:
        candidate = candidate_of(row)
        if candidate in by_rank:
            by_rank[str(candidate)].append(row)
    failed = _failed(decided, request, metadata)
    chosen = _best(by_rank, failed, fits)
    decided.offered.append(tuple(id_of(row) for row in chosen))
    _name(decided, chosen)
    decided.failed = _failures(metadata)
    return chosen


def _name(decided: Decided, chosen: Sequence[Deployment]) -> None:
    """Has the record say whom this pick is for, and which candidate a row of another name serves: logs name the row."""
    for row in chosen:
        candidate, identifier = candidate_of(row), id_of(row)
        decided["picked"] = candidate
        if candidate != identifier:
            decided["rows"] = {**decided.get("rows", {}), identifier: candidate}


def _best(by_rank: Mapping[str, list[Deployment]], failed: Counter[str], fits: Fits) -> list[Deployment]:
    untried = {name: [row for row in rows if not failed[id_of(row)]] for name, rows in by_rank.items()}
    for rows in untried.values():
        fitting = [row for row in rows if fits(row)]
        if fitting:
            return fitting
    for rows in untried.values():
        if rows:
            return rows
    again = [row for rows in by_rank.values() for row in rows]
    least = min((failed[id_of(row)] for row in again), default=0)
    for rows in by_rank.values():
        found = [row for row in rows if failed[id_of(row)] == least]
        if found:
            return found
    return []


def _failed(decided: Decided, request: Mapping[str, Any], metadata: Mapping[str, Any]) -> Counter[str]:
    """How often each deployment has failed in this call."""
    told = metadata.get("previous_models")
    failed = Counter(
        str(one["deployment_id"])
        for one in (told if isinstance(told, list | tuple) else ())
        if isinstance(one, Mapping) and one.get("deployment_id")
    )
    for name in ("_retry_skipped_deployment_ids", "_excluded_deployment_ids"):
        ids = request.get(name)
        failed.update(str(one) for one in (ids if isinstance(ids, list | tuple | set | frozenset) else ()))
    # Whoever asks again without saying who failed was not served by what it was left with.
    if decided.offered and _failures(metadata) == decided.failed:
        failed.update(decided.offered[-1])
    return failed


def _failures(metadata: Mapping[str, Any]) -> int:
    count = metadata.get("request_retry_count")
    told = metadata.get("previous_models")
    return count if isinstance(count, int) else len(told) if isinstance(told, list | tuple) else 0


def anything_fits(_row: Deployment) -> bool:
    """Where no later check takes deployments away."""
    return True


def fitting(router: Any, request: Mapping[str, Any], metadata: Mapping[str, Any], tokens: int | None) -> Fits:
    """Whether a deployment outlives the checks that LiteLLM makes after the filter: its tags, its order, its window.

    `tokens` are the prompt's, None where no window is held against them.
    """
    tagged = getattr(router, "enable_tag_filtering", False) is True or request.get("enable_tag_filtering") is True
    order = request.get("_target_order")
    if tokens is None and not tagged and order is None:
        return anything_fits
    asked = _tags(metadata)

    def fits(row: Deployment) -> bool:
        parameters = row.get("litellm_params")
        parameters = parameters if isinstance(parameters, Mapping) else {}
        if order is not None and parameters.get("order") != order:
            return False
        if tagged and not _tags_match(asked, _tags(parameters)):
            return False
        window = window_of(row)
        return tokens is None or window is None or tokens <= window

    return fits


def _tags(of: Mapping[str, Any]) -> set[str]:
    tags = of.get("tags")
    return {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list | tuple | set | frozenset) else set()


def _tags_match(asked: set[str], tags: set[str]) -> bool:
    return bool(asked & tags) if asked else not tags or "default" in tags


def window_of(row: Deployment) -> int | None:
    """The most tokens that a deployment reads, where its row says it."""
    info = row.get("model_info")
    window = info.get("max_input_tokens") if isinstance(info, Mapping) else None
    return window if isinstance(window, int) else None
