"""The run: buys the answers of a plan's pairs in their order, within a budget, each kept before the next call counts."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import tenacity

from training.config import Replay
from training.quality.paid_calls import Progress, Streak, run_calls, waits
from training.replay.answers import Answer, Reply
from training.replay.ask import Asker
from training.replay.errors import ReplayError
from training.replay.ledger import Key, Ledger
from training.replay.pairs import Pair
from training.replay.providers import Endpoint
from training.replay.request import digest, most_tokens, request_body
from training.replay.rows import cost_of, outcome_of

_BUDGET = "does not fit the budget"


@dataclass
class Account:
    """What a run did, in pairs of its plan; money in USD.

    `bought` in this run, `had` by earlier ones, `logged` already and only to be graded, `in_doubt` without an answer though
    one may have been billed, `failed` by candidate and reason (`doubts`: the same for what came in doubt in this run), `left`
    by the budget or because the run was ended. `spent` is what the folder's ledger counts, all runs together, `doubtful` the
    part of it that is in doubt; `paid` is what this run's answers cost and `expected` what the plan expected them to.
    """

    bought: int = 0
    had: int = 0
    logged: int = 0
    left: int = 0
    in_doubt: int = 0
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    doubts: Counter[tuple[str, str]] = field(default_factory=Counter)
    spent: float = 0.0
    doubtful: float = 0.0
    paid: float = 0.0
    expected: float = 0.0
    interrupted: bool = False


class _Lane:
    """One candidate's calls: how many at a time, how fast, and whether any more are made."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.room = threading.BoundedSemaphore(endpoint.parallel or 10**6)
        self.streak, self.given_up = Streak(), ""
        self._apart = 60.0 / endpoint.rpm if endpoint.rpm else 0.0
        self._lock, self._next = threading.Lock(), 0.0

    def pause(self) -> float:
        """Seconds until the next call may be made; it is taken as made then."""
        with self._lock:
            now = time.monotonic()
            pause = max(self._next - now, 0.0)
            self._next = now + pause + self._apart
            return pause


class Purchase:
    """Buys pairs into a ledger. `stop` ends it: no call is begun any more, those under way are finished."""

    def __init__(
        self,
        ledger: Ledger,
        ask: Asker,
        endpoints: Mapping[str, Endpoint],
        settings: Replay,
        budget_usd: float,
        *,
        ask_again: bool = False,
    ) -> None:
        self._ledger, self._ask, self._settings, self._budget = ledger, ask, settings, budget_usd
        self._lanes = {name: _Lane(endpoint) for name, endpoint in endpoints.items()}
        self._ask_again = ask_again
        self._failed: dict[Key, tuple[str, str]] = {}
        self.stop = threading.Event()
        self.account = Account()

    @property
    def spent(self) -> float:
        """What the ledger counts by now, in USD."""
        return self._ledger.spent

    def run(self, pairs: Sequence[Pair], progress: Progress) -> Account:
        """Buys until all are, the next call does not fit the budget, or it is stopped.

        Raises ReplayError where the folder has the answer to another request by a pair's name, or cannot be written any more.
        """
        told, queue = self.account, self._to_ask(pairs)
        planned = len(queue)

        def end(pair: Pair, reply: Reply) -> None:
            self._note(pair, reply)
            progress(len(pairs) - planned + told.bought + len(self._failed), len(pairs))

        progress(len(pairs) - planned, len(pairs))
        try:
            run_calls(queue, self._settings.parallel, self._begin, end)
        except sqlite3.Error as error:
            raise ReplayError(
                f"the ledger cannot be written any more ({error}); what it has is kept. Make room, and run it again."
            ) from None
        doubtful = self._ledger.in_doubt() & {(pair.request_id, pair.candidate) for pair in pairs}
        told.in_doubt = len(doubtful)
        told.failed = Counter(why for key, why in self._failed.items() if key not in doubtful)
        told.doubts = Counter(why for key, why in self._failed.items() if key in doubtful)
        told.left = len(pairs) - told.had - told.logged - told.bought - told.in_doubt - told.failed.total()
        told.spent, told.doubtful = self._ledger.spent, self._ledger.doubtful_usd()
        told.interrupted = self.stop.is_set()
        return told

    def _to_ask(self, pairs: Sequence[Pair]) -> deque[Pair]:
        """The pairs to ask: those without an answer, unless one may have been billed and asking again may bill it twice."""
        answered, doubtful = self._ledger.answered(), self._ledger.in_doubt()
        queue: deque[Pair] = deque()
        logged = []
        for pair in pairs:
            key = (pair.request_id, pair.candidate)
            if key in answered:
                if answered[key] != digest(request_body(pair)):
                    raise ReplayError(
                        f"the folder has an answer of {pair.candidate} to another request named {pair.request_id!r}: it was "
                        "bought by another plan. Give another --out, or rename the request in the plan."
                    )
                self.account.had += 1
            elif pair.answer is not None:
                logged.append(
                    (
                        key,
                        digest(request_body(pair)),
                        outcome_of(pair, Answer(pair.answer, None, None, None, None), None, None),
                    )
                )
            elif key not in doubtful or self._ask_again or self._lanes[pair.candidate].endpoint.idempotent:
                queue.append(pair)
        self._ledger.logged(logged)
        self.account.logged = len(logged)
        return queue

    def _begin(self, pair: Pair) -> Callable[[], Reply] | None:
        if self.stop.is_set():
            return None
        lane = self._lanes[pair.candidate]
        if lane.given_up:
            return partial(Reply, "left", lane.given_up)
        call = _Call.of(pair, lane.endpoint, self._settings.max_output_tokens, self._ledger.folder_id)
        entry = self._reserve(call)
        return None if entry is None else partial(self._attempts, call, lane, entry)

    def _attempts(self, call: _Call, lane: _Lane, first: int) -> Reply:
        """Asks until there is an answer, or no further attempt is made; each attempt has its own reservation."""
        reserved = [first]

        def attempt() -> Reply:
            entry = reserved.pop() if reserved else self._reserve(call)
            if entry is None:
                return Reply("left", _BUDGET)
            with lane.room:
                if self.stop.wait(lane.pause()):
                    self._ledger.failed(entry, "not sent", in_doubt=False)
                    return Reply("left", "stopped")
                reply = self._ask(lane.endpoint, call.body, call.max_tokens, call.idempotency_key)
            self._settle(entry, call, lane.endpoint, reply)
            return reply

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda reply: reply.passing and not lane.given_up),
            stop=tenacity.stop_after_attempt(self._settings.attempts) | tenacity.stop_when_event_set(self.stop),
            wait=waits(
                self._settings.wait_s, lambda state: state.outcome.result().retry_after if state.outcome else 0.0
            ),
            sleep=tenacity.sleep_using_event(self.stop),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        reply: Reply = retrying(attempt)
        return reply

    def _reserve(self, call: _Call) -> int | None:
        return self._ledger.begin(call.key, call.most_usd, call.idempotency_key, self._budget)

    def _settle(self, entry: int, call: _Call, endpoint: Endpoint, reply: Reply) -> None:
        if reply.answer is None:
            self._ledger.failed(entry, reply.reason, in_doubt=reply.kind == "doubt")
            return
        usd = cost_of(reply.answer, endpoint, call.body)
        outcome = outcome_of(call.pair, reply.answer, usd, reply.latency_ms)
        # What was not said to be billed is counted at the most that it can have been.
        billed = usd if reply.answer.input_tokens is not None else None
        self._ledger.bought(entry, billed, call.key, digest(call.body), outcome, same=endpoint.idempotent)

    def _note(self, pair: Pair, reply: Reply) -> None:
        told, lane = self.account, self._lanes[pair.candidate]
        if reply.answer is not None:
            told.bought += 1
            told.expected += pair.expected_usd
            told.paid += cost_of(reply.answer, lane.endpoint, request_body(pair))
            lane.streak.note(True)
        elif reply.kind != "left" or reply.reason == lane.given_up:
            self._failed[pair.request_id, pair.candidate] = pair.candidate, reply.reason
            if reply.kind != "left" and (lane.streak.note(False) or reply.fatal):
                lead = "" if reply.fatal else f"{lane.streak.failures} calls in a row failed, the last: "
                lane.given_up = f"not asked any more: {lead}{reply.reason}"


@dataclass(frozen=True)
class _Call:
    """What a candidate is sent for a pair, and what that can cost."""

    pair: Pair
    body: dict[str, object]
    max_tokens: int
    most_usd: float
    idempotency_key: str

    @property
    def key(self) -> Key:
        return self.pair.request_id, self.pair.candidate

    @classmethod
    def of(cls, pair: Pair, endpoint: Endpoint, max_output_tokens: int, folder_id: str) -> _Call:
        body = request_body(pair)
        max_tokens = min(max_output_tokens, endpoint.most_output_tokens or max_output_tokens)
        key = digest(folder_id, pair.request_id, endpoint.candidate, endpoint.model, body, max_tokens)
        return cls(pair, body, max_tokens, endpoint.cost(most_tokens(body), max_tokens), key[:40])


def worst_case(pair: Pair, endpoint: Endpoint, max_output_tokens: int) -> float:
    """USD that one call of a pair can cost at most."""
    return _Call.of(pair, endpoint, max_output_tokens, "").most_usd
