"""Budgets in USD per UTC day and calendar month: what each has left, and what a request's budgets allow it.

Where there is a store, the money is there (`store.ledger`), shared by all services on it, and this is what a process knows
of it: what the store said last, and what was decided since and is not written yet. A decision belongs to the period that it
was made in, whenever its feedback comes; without feedback it costs what was expected.

With pacing a budget prices money on the way: what it adds to the knob (1/USD) rises while decisions cost more than their
share of what is left, and falls back to 0 while they do not. This is dual ascent on the budget's constraint, in the
logarithm. Source: Balseiro & Gur 2019, "Learning in repeated auctions with budgets", adaptive pacing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import expm1, inf
from typing import Literal

from serving.state.rulebook import Budget, RuleBook
from serving.store.ledger import UNIT, BudgetKey, Charge, Limit, Totals, units

Period = Literal["day", "month"]
AtLimit = Literal["cheapest", "reject", "warn"]

_DAY, _HOUR, _HOURS = 86_400.0, 3_600.0, 24
_EVEN = 50.0  # decisions, spread evenly over the day, that an hour's share is shrunk towards
_STEP = 0.04
_MOST_OVER = 10.0
_STEEPEST = 14.0
_MEMORY = 300  # decisions over which the usual cost is averaged
_NOTHING = Totals(0, 0, 0)
_UNIT = 0.02  # what the usual cost is worth, in acceptability, where the pace leaves 0


class BudgetSpentError(ValueError):
    """A budget cannot hold what a request costs, and its rule is to reject; `scope`, `period` and `resets_at` say which."""

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

    def saw(self, now: float, decisions: int = 1) -> None:
        """Counts decisions at `now`, in epoch seconds; a clock that steps back stays in the day that it has reached."""
        day = int(now // _DAY)
        if self.day is None or day > self.day:
            if self.day is not None:
                self.before = [(old + new) / 2.0 for old, new in zip(self.before, self.today, strict=True)]
            self.began = now if self.day is None else day * _DAY
            self.day, self.today = day, [0.0] * _HOURS
        self.today[int(now % _DAY // _HOUR)] += decisions

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
    """One budget in its current period; amounts in USD, but for `stored` and `waiting`, which are in the ledger's units.

    `stored` is what the store said last, `waiting` what was decided here since then and is not written there yet.
    """

    scope: str
    period: Period
    limit: float
    at_limit: AtLimit
    pacing: bool
    begins: datetime
    ends: datetime
    stored: Totals = _NOTHING
    waiting: int = 0
    log_pace: float = 0.0
    usual: float = 0.0
    decisions: int = 0
    rhythm: Rhythm = field(default_factory=Rhythm)

    @property
    def key(self) -> BudgetKey:
        return BudgetKey(self.scope, self.period, int(self.begins.timestamp()))

    @property
    def spent(self) -> float:
        return self.stored.settled / UNIT

    @property
    def reserved(self) -> float:
        """What decisions without feedback are expected to cost."""
        return (self.stored.used - self.stored.settled + self.waiting) / UNIT

    @property
    def left(self) -> float:
        return max(units(self.limit) - self.stored.used - self.waiting, 0) / UNIT

    @property
    def exact(self) -> bool:
        """Whether it may not be overrun, so that the store is asked before an answer is given."""
        return self.at_limit != "warn"

    def limits(self, amount: int, last: bool) -> bool:
        """Whether a charge has to fit."""
        if self.at_limit == "cheapest":
            return not last and self.stored.used + self.waiting + amount <= units(self.limit)
        return self.at_limit == "reject"

    @property
    def pace(self) -> float:
        """What this budget adds to the knob, 1/USD."""
        return expm1(self.log_pace) * _UNIT / self.usual if self.log_pace > 0 and self.usual > 0 else 0.0

    def renewed(self, now: datetime) -> None:
        """Begins the period that `now` is in, if this one has ended; a clock that steps back begins nothing."""
        if now < self.ends:
            return
        self.begins, self.ends = bounds(self.period, now)
        self.stored, self.waiting = _NOTHING, 0

    def told(self, totals: Totals, now: float) -> None:
        """Takes what the store says at `now` (epoch seconds): the traffic of all who share it sets the pace."""
        if self.pacing:
            self.rhythm.saw(now, max(totals.decisions - self.stored.decisions, 0))
        self.stored = totals

    def paced(self, cost: float, now: float) -> None:
        """Moves the pace by what a decision at `now` (epoch seconds) is expected to cost."""
        if not self.pacing:
            return
        self.decisions += 1
        self.usual += (cost - self.usual) / min(self.decisions, _MEMORY)
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


def bounds(period: Period, now: datetime) -> tuple[datetime, datetime]:
    """The first instant of the UTC day or calendar month that `now` is in, and of the next one."""
    begins = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return begins, begins + timedelta(days=1)
    begins = begins.replace(day=1)
    return begins, (begins + timedelta(days=32)).replace(day=1)


@dataclass
class Budgets:
    """The accounts of every scope that has a budget. Safe to share between threads; `clock` gives epoch seconds.

    `shared` is whether a store keeps them; then `told` gives what it says, and `hold` only what waits to be written.
    """

    rules: RuleBook
    clock: Callable[[], float]
    shared: bool = False
    _accounts: dict[str, list[Account]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        now = self._now()
        for scope, rules in self.rules.every_scope():
            accounts = list(_accounts_of(scope, rules.budget, now))
            if accounts:
                self._accounts[scope] = accounts

    def follow(self, rules: RuleBook) -> None:
        """Takes other rules over; a budget that was there before keeps what is spent of it, and its pace while it paces."""
        now = self._now()
        with self._lock:
            before = {(one.scope, one.period): one for accounts in self._accounts.values() for one in accounts}
            found: dict[str, list[Account]] = {}
            for scope, its in rules.every_scope():
                for coming in _accounts_of(scope, its.budget, now):
                    kept = before.get((scope, coming.period), coming)
                    kept.limit, kept.at_limit, kept.pacing = coming.limit, coming.at_limit, coming.pacing
                    kept.log_pace = kept.log_pace if kept.pacing else 0.0
                    found.setdefault(scope, []).append(kept)
            self.rules, self._accounts = rules, found

    @property
    def any(self) -> bool:
        return bool(self._accounts)

    def exact(self, scopes: Iterable[str]) -> bool:
        """Whether the store has to be asked before a request under these scopes is answered."""
        return self.shared and any(account.exact for scope in scopes for account in self._accounts.get(scope, ()))

    def allowance(self, scopes: Iterable[str]) -> Allowance:
        """What is left for a request."""
        with self._lock:
            pace, most, warned = 0.0, inf, []
            for account in self._of(scopes):
                pace = max(pace, account.pace)
                if account.exact:
                    most = min(most, account.left)
                elif account.left <= 0:
                    warned.append(f"{account.scope}/{account.period}")
            return Allowance(pace, most, tuple(warned))

    def charge(self, decision: str, scopes: Iterable[str], usd: float, *, last: bool = False) -> Charge:
        """What a decision that is expected to cost so much charges its budgets with, and what each may hold.

        One that answers with the cheapest at its limit holds that too, whatever it costs, and whatever comes at the `last` try.
        """
        amount = units(usd)
        with self._lock:
            limits = tuple(
                Limit(account.key, units(account.limit) if account.limits(amount, last) else None)
                for account in self._of(scopes)
            )
            return Charge(decision, limits, amount)

    def admit(self, scopes: Iterable[str], usd: float) -> None:
        """Raises BudgetSpentError where a budget that rejects has less left than is held against a decision."""
        with self._lock:
            for account in self._of(scopes):
                if account.at_limit == "reject" and units(usd) > units(account.left):
                    raise BudgetSpentError(account)

    def check(self, charge: Charge) -> None:
        """Raises BudgetSpentError where it is known that a budget cannot hold a charge."""
        with self._lock:
            self._check(charge)

    def hold(self, charge: Charge) -> None:
        """Counts a charge that waits to be written, or is kept here where nothing is shared. Raises as `check`."""
        with self._lock:
            for account in self._check(charge):
                account.waiting += charge.amount
                if not self.shared and account.pacing:
                    account.rhythm.saw(self.clock())

    def _check(self, charge: Charge) -> list[Account]:
        accounts = self._of_keys(limit.budget for limit in charge.limits)
        for budget, most in charge.limits:
            account = accounts.get(budget)
            if account is None or most is None:
                continue
            if account.stored.used + account.waiting + charge.amount > most:
                raise BudgetSpentError(account)
        return list(accounts.values())

    def pace(self, scopes: Iterable[str], usd: float) -> None:
        """Moves the paces by a decision's expected cost."""
        with self._lock:
            now = self.clock()
            for account in self._of(scopes):
                account.paced(usd, now)

    def refused(self, budget: BudgetKey) -> BudgetSpentError:
        """The error of a budget that the store says cannot hold a charge."""
        with self._lock:
            account = next(a for accounts in self._accounts.values() for a in accounts if a.key[:2] == budget[:2])
            return BudgetSpentError(account)

    def keys(self) -> list[BudgetKey]:
        """Every budget in its current period."""
        with self._lock:
            return [account.key for account in self._of(self._accounts)]

    def told(self, totals: Mapping[BudgetKey, Totals], written: Sequence[Charge] = ()) -> None:
        """Takes what the store says of budgets, and which charges that waited here are in it."""
        with self._lock:
            now = self.clock()
            for charge in written:
                for account in self._of_keys(limit.budget for limit in charge.limits).values():
                    account.waiting = max(account.waiting - charge.amount, 0)
            for key, account in self._of_keys(totals).items():
                account.told(totals[key], now)

    def lines(self) -> list[Account]:
        with self._lock:
            return self._of(self._accounts)

    def _of(self, scopes: Iterable[str]) -> list[Account]:
        found = [account for scope in scopes for account in self._accounts.get(scope, ())]
        now = self._now()
        for account in found:
            account.renewed(now)
        return found

    def _of_keys(self, budgets: Iterable[BudgetKey]) -> dict[BudgetKey, Account]:
        """The accounts that are still in the period that is meant."""
        found = {}
        for key in budgets:
            for account in self._accounts.get(key.scope, ()):
                if account.key == key:
                    found[key] = account
        return found

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def _accounts_of(scope: str, budget: Budget, now: datetime) -> Iterable[Account]:
    periods: tuple[tuple[Period, float | None], ...] = (("day", budget.day_usd), ("month", budget.month_usd))
    for period, limit in periods:
        if limit is not None:
            yield Account(scope, period, limit, budget.at_limit, budget.pacing, *bounds(period, now))
