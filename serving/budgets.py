"""Budgets in USD per UTC day and calendar month: reserved at the decision, settled by feedback, released after a time-out.

With pacing a budget tightens the knob on the way, by dual ascent on the budget's constraint: each decision that is expected
to cost more than its share of what is left raises the pace, each that costs less lowers it. Source: Balseiro & Gur 2019,
"Learning in repeated auctions with budgets", adaptive pacing; the multiplier works on the knob.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import exp
from typing import Literal

from serving.rules import Budget, RuleBook

Period = Literal["day", "month"]
AtLimit = Literal["cheapest", "reject", "warn"]

_STEP = 0.02
_STEEPEST = 12.0  # the logarithm of the highest pace
_RATE_MEMORY = 500.0  # decisions over which the traffic's rate is averaged


class BudgetSpentError(ValueError):
    """A budget is spent and its rule is to reject; `scope`, `period` and `resets_at` say which and until when."""

    def __init__(self, account: Account) -> None:
        self.scope, self.period, self.resets_at = account.scope, account.period, account.ends
        super().__init__(
            f"the {account.period}'s budget of {account.scope} is spent: {account.spent + account.reserved:.4f} of "
            f"{account.limit:.4f} USD; the next one begins {account.ends:%Y-%m-%d %H:%M} UTC"
        )


@dataclass
class Account:
    """One budget in its current period."""

    scope: str
    period: Period
    limit: float
    at_limit: AtLimit
    pacing: bool
    begins: datetime
    ends: datetime
    spent: float = 0.0
    reserved: float = 0.0
    log_pace: float = 0.0
    gap: float = 0.0  # mean seconds between decisions
    last: float | None = None

    @property
    def left(self) -> float:
        return max(self.limit - self.spent - self.reserved, 0.0)

    @property
    def pace(self) -> float:
        return exp(self.log_pace)

    def renewed(self, now: datetime) -> None:
        """Begins the period that `now` is in, if it is another one; what is reserved goes along."""
        if self.begins <= now < self.ends:
            return
        self.begins, self.ends = bounds(self.period, now)
        self.spent = 0.0

    def paced(self, cost: float, now: float) -> None:
        """Moves the pace by what a decision at `now` (epoch seconds) is expected to cost."""
        if self.last is not None:
            weight = max(1.0 / _RATE_MEMORY, 0.02)
            gap = max(now - self.last, 1e-6)
            self.gap = gap if self.gap == 0 else (1 - weight) * self.gap + weight * gap
        self.last = now
        if not self.pacing or self.gap == 0:
            return
        to_come = max((self.ends.timestamp() - now) / self.gap, 1.0)
        share = self.left / to_come
        over = min(cost / share - 1.0, 5.0) if share > 0 else 5.0
        self.log_pace = min(max(self.log_pace + _STEP * over, 0.0), _STEEPEST)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the budgets of a request's scopes leave it: a pace for the knob, or nothing but the cheapest."""

    pace: float = 1.0
    cheapest: bool = False
    warned: tuple[str, ...] = ()


@dataclass
class _Reservation:
    accounts: list[Account]
    usd: float
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
    """The accounts of every scope that has a budget. Safe to share between threads."""

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
        """What is left for a request; raises BudgetSpentError where a spent budget rejects."""
        with self._lock:
            self._release()
            pace, cheapest, warned = 1.0, False, []
            for account in self._of(scopes):
                pace = max(pace, account.pace)
                if account.left > 0:
                    continue
                if account.at_limit == "reject":
                    raise BudgetSpentError(account)
                cheapest = cheapest or account.at_limit == "cheapest"
                warned.append(f"{account.scope}/{account.period}")
            return Allowance(pace, cheapest, tuple(warned))

    def reserve(self, decision: str, scopes: Iterable[str], usd: float) -> None:
        """Holds a decision's expected cost until `settle` or the time-out."""
        now = self.clock()
        with self._lock:
            accounts = self._of(scopes)
            for account in accounts:
                account.paced(usd, now)
                account.reserved += usd
            if accounts:
                self._open[decision] = _Reservation(accounts, usd, now + self.release_after)

    def settle(self, decision: str, usd: float | None) -> bool:
        """Turns what was reserved into what was spent (the expected cost, if `usd` is None); False if nothing was held."""
        with self._lock:
            held = self._open.pop(decision, None)
            if held is None:
                return False
            for account in held.accounts:
                account.reserved = max(account.reserved - held.usd, 0.0)
                account.spent += held.usd if usd is None else usd
            return True

    def load(self, spent: Sequence[tuple[str | None, str | None, float, float]], period: Period) -> None:
        """Takes over what the store says was spent and reserved in a period: (key, workflow, settled, reserved)."""
        with self._lock:
            for accounts in self._accounts.values():
                for account in accounts:
                    if account.period == period:
                        account.spent = account.reserved = 0.0
            for key, workflow, settled, reserved in spent:
                scopes = ["default", f"workflow:{workflow}", f"key:{key}"]
                for account in (a for a in self._of(scopes) if a.period == period):
                    account.spent += settled
                    account.reserved += reserved

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
            for account in held.accounts:
                account.reserved = max(account.reserved - held.usd, 0.0)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def _accounts_of(scope: str, budget: Budget, now: datetime) -> Iterable[Account]:
    periods: tuple[tuple[Period, float | None], ...] = (("day", budget.day_usd), ("month", budget.month_usd))
    for period, limit in periods:
        if limit is not None:
            yield Account(scope, period, limit, budget.at_limit, budget.pacing, *bounds(period, now))
