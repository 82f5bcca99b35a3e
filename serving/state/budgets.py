"""Budgets in USD per UTC day and calendar month: reserved at the decision, settled by feedback, released after a time-out.

What a decision costs belongs to the period that it was made in, whenever its feedback comes.

With pacing a budget prices money on the way: what it adds to the knob (1/USD) rises while decisions cost more than their
share of what is left, and falls back to 0 while they do not. This is dual ascent on the budget's constraint, in the
logarithm. Source: Balseiro & Gur 2019, "Learning in repeated auctions with budgets", adaptive pacing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import expm1, inf
from typing import Literal

from serving.state.rulebook import Budget, RuleBook

Period = Literal["day", "month"]
AtLimit = Literal["cheapest", "reject", "warn"]

_DAY, _HOUR, _HOURS = 86_400.0, 3_600.0, 24
_EVEN = 50.0  # decisions, spread evenly over the day, that an hour's share is shrunk towards
_STEP = 0.04
_MOST_OVER = 10.0
_STEEPEST = 14.0
_MEMORY = 300  # decisions over which the usual cost is averaged
_UNIT = 0.02  # what the usual cost is worth, in acceptability, where the pace leaves 0


class BudgetSpentError(ValueError):
    """A budget is spent and its rule is to reject; `scope`, `period` and `resets_at` say which and until when."""

    def __init__(self, account: Account) -> None:
        self.scope, self.period, self.resets_at = account.scope, account.period, account.ends
        super().__init__(
            f"the {account.period}'s budget of {account.scope} is spent: {account.left:.6f} of {account.limit:.4f} USD "
            f"are left, less than this request is expected to cost; the next one begins {account.ends:%Y-%m-%d %H:%M} UTC"
        )


@dataclass
class Rhythm:
    """How the traffic is spread over the hours of the UTC day, and how many decisions a day has.

    Each day that has passed counts twice as much as the one before it. The first day is taken to be even.
    """

    before: list[float] = field(default_factory=lambda: [0.0] * _HOURS)
    today: list[float] = field(default_factory=lambda: [0.0] * _HOURS)
    day: int | None = None
    began: float = 0.0

    def saw(self, now: float) -> None:
        """Counts a decision at `now`, in epoch seconds."""
        day = int(now // _DAY)
        if day != self.day:
            if self.day is not None:
                self.before = [(old + new) / 2.0 for old, new in zip(self.before, self.today, strict=True)]
            self.began = now if self.day is None else day * _DAY
            self.day, self.today = day, [0.0] * _HOURS
        self.today[int(now % _DAY // _HOUR)] += 1.0

    def to_come(self, now: float, ends: float) -> float:
        """How many decisions are expected from `now` to `ends`, both in epoch seconds; at least 1."""
        midnight = (now // _DAY + 1.0) * _DAY
        rest, passed = self._share(now, midnight), self._share(self.began, now)
        # The day before says how many there are, until this one has shown it.
        known, weight = sum(self.before), 0.1
        daily = (sum(self.today) + weight * known) / max(passed + (weight if known else 0.0), 1e-3)
        return max(daily * (rest + max(round((ends - midnight) / _DAY), 0)), 1.0)

    def _share(self, start: float, stop: float) -> float:
        """The share of a day's traffic between two times of one day, in epoch seconds."""
        total = sum(self.before) + _EVEN
        first = start // _DAY * _DAY
        found = 0.0
        for hour, count in enumerate(self.before):
            begins = first + hour * _HOUR
            inside = min(stop, begins + _HOUR) - max(start, begins)
            if inside > 0:
                found += inside / _HOUR * (count + _EVEN / _HOURS) / total
        return found


@dataclass
class Account:
    """One budget in its current period, USD.

    `own` is what this process holds for decisions without feedback, `elsewhere` what the store says of others' beyond it.
    """

    scope: str
    period: Period
    limit: float
    at_limit: AtLimit
    pacing: bool
    begins: datetime
    ends: datetime
    spent: float = 0.0
    own: float = 0.0
    elsewhere: float = 0.0
    log_pace: float = 0.0
    usual: float = 0.0
    decisions: int = 0
    rhythm: Rhythm = field(default_factory=Rhythm)

    @property
    def reserved(self) -> float:
        return max(self.own + self.elsewhere, 0.0)

    @property
    def left(self) -> float:
        return max(self.limit - self.spent - self.reserved, 0.0)

    @property
    def pace(self) -> float:
        """What this budget adds to the knob, 1/USD."""
        return expm1(self.log_pace) * _UNIT / self.usual if self.log_pace > 0 and self.usual > 0 else 0.0

    def renewed(self, now: datetime) -> None:
        """Begins the period that `now` is in, if it is another one: nothing is spent and nothing held of it yet."""
        if self.begins <= now < self.ends:
            return
        self.begins, self.ends = bounds(self.period, now)
        self.spent = self.own = self.elsewhere = 0.0

    def paced(self, cost: float, now: float) -> None:
        """Moves the pace by what a decision at `now` (epoch seconds) is expected to cost."""
        if not self.pacing:
            return
        self.decisions += 1
        self.usual += (cost - self.usual) / min(self.decisions, _MEMORY)
        self.rhythm.saw(now)
        share = self.left / self.rhythm.to_come(now, self.ends.timestamp())
        over = min(cost / share - 1.0, _MOST_OVER) if share > 0 else _MOST_OVER
        self.log_pace = min(max(self.log_pace + _STEP * over, 0.0), _STEEPEST)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the budgets of a request's scopes leave it.

    `pace` is added to the knob, `most_usd` is the highest cost that the budgets still hold, `warned` are the spent ones
    that only warn, as "<scope>/<period>".
    """

    pace: float = 0.0
    most_usd: float = inf
    warned: tuple[str, ...] = ()


@dataclass
class _Reservation:
    accounts: list[Account]
    usd: float
    at: datetime
    until: float


def bounds(period: Period, now: datetime) -> tuple[datetime, datetime]:
    """The first instant of the UTC day or calendar month that `now` is in, and of the next one."""
    begins = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return begins, begins + timedelta(days=1)
    begins = begins.replace(day=1)
    return begins, (begins + timedelta(days=32)).replace(day=1)


@dataclass
class Budgets:
    """The accounts of every scope that has a budget. Safe to share between threads.

    `clock` gives epoch seconds; what is reserved is let go after `release_after` seconds without feedback.
    """

    rules: RuleBook
    clock: Callable[[], float]
    release_after: float
    _accounts: dict[str, list[Account]] = field(default_factory=dict)
    _open: OrderedDict[str, _Reservation] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        now = self._now()
        for scope, rules in self.rules.every_scope():
            accounts = list(_accounts_of(scope, rules.budget, now))
            if accounts:
                self._accounts[scope] = accounts

    @property
    def any(self) -> bool:
        return bool(self._accounts)

    def allowance(self, scopes: Iterable[str]) -> Allowance:
        """What is left for a request; raises BudgetSpentError where a budget that rejects has nothing left."""
        with self._lock:
            self._release()
            pace, most, warned = 0.0, inf, []
            for account in self._of(scopes):
                pace = max(pace, account.pace)
                if account.at_limit != "warn":
                    most = min(most, account.left)
                if account.left > 0:
                    continue
                if account.at_limit == "reject":
                    raise BudgetSpentError(account)
                if account.at_limit == "warn":
                    warned.append(f"{account.scope}/{account.period}")
            return Allowance(pace, most, tuple(warned))

    def reserve(self, decision: str, scopes: Iterable[str], usd: float) -> None:
        """Holds a decision's expected cost until `settle` or the time-out.

        Raises BudgetSpentError, and holds nothing, where that is more than a budget that rejects has left: between
        `allowance` and here another decision may have taken it.
        """
        now = self.clock()
        with self._lock:
            self._release()
            accounts = self._of(scopes)
            for account in accounts:
                if account.at_limit == "reject" and usd > account.left:
                    raise BudgetSpentError(account)
            for account in accounts:
                account.paced(usd, now)
                account.own += usd
            if accounts:
                self._open[decision] = _Reservation(accounts, usd, self._now(), now + self.release_after)

    def settle(self, decision: str, usd: float | None) -> bool:
        """Turns what was reserved into what was spent (the expected cost, if `usd` is None); False if nothing was held."""
        with self._lock:
            held = self._open.pop(decision, None)
            if held is None:
                return False
            for account in self._let_go(held):
                account.spent += held.usd if usd is None else usd
            return True

    def restore(self, decisions: Iterable[tuple[str, str | None, str | None, float, float]]) -> None:
        """Holds again what a process before this one held: (id, key, workflow, expected USD, epoch seconds), oldest first."""
        with self._lock:
            for decision, key, workflow, usd, at in decisions:
                accounts = self._of(_scopes(key, workflow))
                if not accounts or decision in self._open:
                    continue
                made = datetime.fromtimestamp(at, UTC)
                self._open[decision] = _Reservation(accounts, usd, made, at + self.release_after)
                for account in accounts:
                    if made >= account.begins:
                        account.own += usd

    def load(self, spent: Sequence[tuple[str | None, str | None, float, float]], period: Period) -> None:
        """Takes over what the store says was spent and reserved in a period: (key, workflow, settled, reserved)."""
        with self._lock:
            self._release()
            totals: dict[int, list[float]] = {}
            for key, workflow, settled, reserved in spent:
                for account in self._of(_scopes(key, workflow)):
                    total = totals.setdefault(id(account), [0.0, 0.0])
                    total[0] += settled
                    total[1] += reserved
            for account in (a for accounts in self._accounts.values() for a in accounts if a.period == period):
                settled, reserved = totals.get(id(account), (0.0, 0.0))
                account.spent, account.elsewhere = settled, reserved - account.own

    def lines(self) -> list[Account]:
        with self._lock:
            self._release()
            return self._of(self._accounts)

    def _of(self, scopes: Iterable[str]) -> list[Account]:
        found = [account for scope in scopes for account in self._accounts.get(scope, ())]
        now = self._now()
        for account in found:
            account.renewed(now)
        return found

    def _release(self) -> None:
        """Lets go of what was reserved longer ago than the time-out; the oldest are first."""
        now = self.clock()
        while self._open:
            decision, held = next(iter(self._open.items()))
            if held.until > now:
                return
            del self._open[decision]
            self._let_go(held)

    def _let_go(self, held: _Reservation) -> list[Account]:
        """Ends a reservation; gives the accounts that are still in the period it was made in."""
        now = self._now()
        still = []
        for account in held.accounts:
            account.renewed(now)
            if held.at >= account.begins:
                account.own = max(account.own - held.usd, 0.0)
                still.append(account)
        return still

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def _scopes(key: str | None, workflow: str | None) -> list[str]:
    return ["default", f"workflow:{workflow}", f"key:{key}"]


def _accounts_of(scope: str, budget: Budget, now: datetime) -> Iterable[Account]:
    periods: tuple[tuple[Period, float | None], ...] = (("day", budget.day_usd), ("month", budget.month_usd))
    for period, limit in periods:
        if limit is not None:
            yield Account(scope, period, limit, budget.at_limit, budget.pacing, *bounds(period, now))
