"""What a platform engineer sees of the plug-in: counters in Prometheus's default registry, which LiteLLM's /metrics shows.

And its complaints in the log: of each kind one line a minute, with how many there were.
"""

from __future__ import annotations

import logging
import threading
import time

from prometheus_client import Counter, Histogram

from serving.client.answers import UNAVAILABLE
from serving.decide.decision import Reason

logger = logging.getLogger(__name__)

# Reasons of the plug-in's own: a request without a text that the router reads, and rows that name no candidate.
UNREADABLE, UNMAPPED = "unreadable", "unmapped"

_LOG_SECONDS = 60.0
# The reasons of decisions; a router over HTTP may be another version, and what it says is not taken for a label.
_REASONS = frozenset(Reason) | {UNAVAILABLE, UNREADABLE, UNMAPPED}

HOOKS = Counter("router_litellm_hook", "Calls of each hook of the plug-in: one that stays 0 is not called.", ["hook"])
FAULTS = Counter("router_litellm_fault", "Errors inside a hook; the call went on without it.", ["hook"])
DECISIONS = Counter(
    "router_litellm_decisions", "Decisions, by the model group asked and the reason.", ["group", "reason"]
)
CHOSEN = Counter("router_litellm_chosen", "Decisions, by the candidate chosen.", ["model"])
HELD_BACK = Counter(
    "router_litellm_held_back", "Calls that were decided on and not routed (shadow mode, share).", ["group"]
)
FAILED_OPEN = Counter("router_litellm_failed_open", "Calls that went on without a decision.", ["group"])
REFUSED = Counter("router_litellm_refused", "Calls that the rules let nobody answer.", ["status"])
DENIED = Counter("router_litellm_denied", "Calls whose key may not use any candidate.", ["group"])
UNROUTED = Counter("router_litellm_unrouted", "Calls of a routed group that the plug-in was not asked about.", ["why"])
EXPECTED_USD = Counter("router_litellm_expected_cost_usd", "Expected cost of what was chosen.")
REFERENCE_USD = Counter("router_litellm_reference_cost_usd", "Expected cost had the reference answered the same calls.")
# Of calls that were held back, over those alone of which all three are known.
HELD_BACK_PRICED = Counter(
    "router_litellm_held_back_priced", "Calls held back whose cost is known, and what was expected."
)
HELD_BACK_SPENT_USD = Counter("router_litellm_held_back_cost_usd", "What these calls cost, by LiteLLM.")
HELD_BACK_EXPECTED_USD = Counter(
    "router_litellm_held_back_expected_cost_usd", "Expected cost of these calls, had they been routed."
)
HELD_BACK_REFERENCE_USD = Counter(
    "router_litellm_held_back_reference_cost_usd", "Expected cost of these calls, had the reference answered them."
)
OUTCOMES = Counter("router_litellm_outcomes", "What became of calls and of what is told of them.", ["what"])
COST_USD = Counter("router_litellm_cost_usd", "What the calls that were decided on cost, by LiteLLM.")
SECONDS = Histogram(
    "router_litellm_decision_seconds",
    "Time that a call waited for its decision.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)


def count_held_back(spent: float | None, expected: object, reference: object) -> None:
    """Counts what a call that was held back cost beside what it was expected to cost elsewhere, where all of it is known."""
    if spent is None or not isinstance(expected, float) or not isinstance(reference, float):
        return
    HELD_BACK_PRICED.inc()
    HELD_BACK_SPENT_USD.inc(spent)
    HELD_BACK_EXPECTED_USD.inc(expected)
    HELD_BACK_REFERENCE_USD.inc(reference)


def reason_of(said: str) -> str:
    """A reason as a label."""
    return said if said in _REASONS else "other"


class Complaints:
    """Says each kind of complaint at most once a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def say(self, kind: str, message: str, error: BaseException | None = None, seconds: float = _LOG_SECONDS) -> None:
        """Logs the message, or counts it until so many seconds have passed. `error`'s text is not told: it may be a prompt."""
        now = time.monotonic()
        with self._lock:
            silent_until, unsaid = self._kinds.get(kind, (float("-inf"), 0))
            speaks = now >= silent_until
            self._kinds[kind] = (now + seconds, 0) if speaks else (silent_until, unsaid + 1)
        if speaks:
            more = f" ({unsaid} more since the last such line)" if unsaid else ""
            where = "" if error is None else f" [{_place(error)}]"
            logger.error("outcome-router: %s%s%s", message, where, more)


def _place(error: BaseException) -> str:
    """The class of an error and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
