"""A store that a year of decisions is in: what feedback, budgets, savings, reading and pruning take as it grows."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import sqlalchemy as sa
import typer
from sqlalchemy.exc import OperationalError

from benchmarks.scale.throwaway import own_database, postgres
from serving.account.window import DAY, By, Window
from serving.store import series, upgrade
from serving.store.days.summing import sum_up
from serving.store.days.tables import METADATA
from serving.store.engine import open_engine
from serving.store.feedback import Feedback
from serving.store.ledger import BudgetKey
from serving.store.months.calendar import Month, month_of
from serving.store.months.partitions import make
from serving.store.months.prune import prune
from serving.store.savings import savings
from serving.store.transaction import totals_of
from serving.store.writer import DecisionStore
from training.logs.sources import decisions

logger = logging.getLogger(__name__)

SIZES = (1_000_000, 10_000_000)
UPGRADED = 1_000_000
# What is promised of a year of 10 million decisions: seconds at most, rows per second at least.
PROMISED = {
    "feedback_p99_s": 0.020,
    "budgets_p99_s": 0.050,
    "savings_30_days_s": 5.0,
    "savings_year_s": 30.0,
    "import_rows_per_s": 20_000,
}
_FEEDBACK, _BUDGETS, _READ = 2_000, 200, 500_000
_FED_BACK = 0.6
_DAYS = 365
_MOST_SECONDS = 600.0
_ID = "lpad(to_hex((at * 1e3)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15)"
# Half of the decisions are one of three turns of a conversation; three in ten went to the reference.
_FILL = """
WITH made AS (
    SELECT n, h, at, {id} AS id, CASE WHEN n % 10 < 3 THEN 0 ELSE 1 + n % 5 END AS to_whom,
        0.002 * (0.5 + (n * 7919 % 1000) / 1000.0) AS usd
    FROM (SELECT n, md5(n::text) AS h, {begins} + (n - {first}) * {step} AS at
        FROM generate_series({first}::bigint, {last}::bigint) n) numbered
)
INSERT INTO decision (id, at, key, workflow, session_id, prompt, candidate, reason, propensity, knob, confidence,
    expected_quality, expected_cost_usd, expected_latency_ms, novelty, cluster, tools, json_schema, bundle, reference,
    reference_expected_cost_usd, reference_input_usd)
SELECT id, at, 'key' || n / 3 % 4, 'workflow' || n / 3 % 7, CASE WHEN n / 3 % 2 = 0 THEN 's' || n / 3 END, repeat(h, 4),
    'vendor/candidate-' || to_whom, 'best_value', 0.9, 5.0, 0.9, 0.8, CASE to_whom WHEN 0 THEN usd ELSE usd / (1 + to_whom) END,
    800, 0.1, n % 20, false, false, 'v1', 'vendor/candidate-0', usd, usd / 10 FROM made
"""
_TELL = """
INSERT INTO feedback (decision_id, at, quality, cost_usd, input_tokens, output_tokens, latency_ms, error)
SELECT id, at + 30, CASE WHEN h < '5' THEN 0 ELSE 1 END, expected_cost_usd * (0.6 + (ascii(substr(h, 2, 1)) % 8) / 10.0),
    400, 250, 900, false
FROM (SELECT id, at, expected_cost_usd, substr(id, 18, 4) AS h FROM decision
    WHERE at >= {begins} AND at < {ends} AND substr(id, 25, 4) < '{share}') told
"""


def measure(work: Path, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Fills a store of each size and measures it; what was measured in this folder before is not measured again."""
    found = {str(rows): _kept(work, f"year-{rows}", partial(measured, rows=rows)) for rows in sizes}
    held = _kept(work, f"year-upgrade-{UPGRADED}", partial(upgraded, rows=UPGRADED))
    return {"sizes": found, "upgrade": held, "promised": PROMISED}


def _kept(work: Path, name: str, found: Callable[[str], Any]) -> Any:
    """What is found of a database of its own, or was found before."""
    kept = work / f"{name}.json"
    if not kept.exists():
        with postgres(work) as url:
            kept.write_text(json.dumps(found(own_database(url, "measured"))), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def measured(url: str, rows: int) -> dict[str, float | None]:
    """What a store of so many decisions takes."""
    engine, now = open_engine(url), time.time()
    found: dict[str, float | None] = {"load_before": _load()}
    months = _months(now)
    make(engine, months)
    found["fill_s"] = _timed(lambda: _fill(engine, months, now, rows))
    with engine.connect() as connection:
        told = connection.scalar(sa.text("SELECT count(*) FROM feedback"))
        found["fed_back"] = float(told or 0)
        found["bytes"] = float(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
    found |= _feedback(engine, now)
    found |= _budgets(engine, now)
    found["unsummed_30_days_s"] = _savings(engine, now, 30)
    found["sum_up_s"] = _timed(lambda: _sum_up(engine))
    found["bytes_of_sums"] = _bytes_of_sums(engine)
    for name, days in (("30_days", 30), ("year", _DAYS)):
        found[f"savings_{name}_s"] = _savings(engine, now, days)
    found["total_s"] = _timed(lambda: _total(engine))
    found |= _import(url)
    found["prune_month_s"] = _timed(lambda: prune(engine, float(months[0].ends)))
    found["load_after"] = _load()
    engine.dispose()
    return found


def _load() -> float:
    """How many processes ran or waited in the last five minutes, on average."""
    load = os.getloadavg()[1]
    logger.info("the load of the machine is %.1f", load)
    return load


def _sum_up(engine: sa.Engine) -> None:
    """Sums every day that is over, as a service does in the background; not while others write, who are waited for."""
    ends = time.monotonic() + _MOST_SECONDS
    while not (days := sum_up(engine)) and time.monotonic() < ends:
        time.sleep(1.0)
    logger.info("%d days are summed", days)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")  # as autovacuum does within minutes


def _bytes_of_sums(engine: sa.Engine) -> float:
    with engine.connect() as connection:
        names = list(METADATA.tables)
        asked = sa.text(
            "SELECT sum(pg_total_relation_size(to_regclass(name))) FROM unnest(CAST(:names AS text[])) name"
        )
        return float(connection.scalar(asked, {"names": names}) or 0)


def _total(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        series.total(connection)


def upgraded(url: str, rows: int) -> dict[str, float]:
    """How long the upgrade from version 5, which nobody else can use the store during, takes with so many decisions."""
    now = time.time()
    with tempfile.TemporaryDirectory() as folder:
        before, upgrade.MIGRATIONS = upgrade.MIGRATIONS, Path(folder) / "migrations"
        shutil.copytree(before, upgrade.MIGRATIONS, ignore=shutil.ignore_patterns("v6.py", "__pycache__"))
        try:
            engine = open_engine(url)
        finally:
            upgrade.MIGRATIONS = before
    _fill(engine, _months(now), now, rows)
    engine.dispose()
    return {"rows": rows, "seconds": _timed(lambda: open_engine(url).dispose()), "load": _load()}


def _months(now: float) -> list[Month]:
    """The months of the year before a time."""
    months = [month_of(now - _DAYS * DAY)]
    while months[-1].ends <= now:
        months.append(months[-1].following)
    return months


def _fill(engine: sa.Engine, months: list[Month], now: float, rows: int) -> None:
    """Decisions at an even pace, and feedback on a part of them, month by month."""
    begins, step = now - _DAYS * DAY, _DAYS * DAY / rows
    first = 0
    for month in months:
        last = min(int((min(month.ends, now) - begins) / step), rows)
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            # Nothing is summed yet that a trigger might have to note a change of.
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            bounds = {"first": first, "last": last - 1, "begins": repr(begins + first * step), "step": repr(step)}
            connection.exec_driver_sql(_FILL.format(id=_ID, **bounds).replace("%", "%%"))
            share = f"{int(_FED_BACK * 0x10000):04x}"
            asked = {"begins": max(month.begins, begins), "ends": month.ends, "share": share}
            connection.exec_driver_sql(_TELL.format(**asked).replace("%", "%%"))
        first = last
        logger.info("%s is filled: %d decisions", month.name, last)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")
        connection.exec_driver_sql("CHECKPOINT")


def _feedback(engine: sa.Engine, now: float) -> dict[str, float | None]:
    """One at a time, on decisions of the last 30 days that nobody told of yet, until each is on the disk."""
    asked = sa.text(
        "SELECT id FROM decision d WHERE at >= :since AND NOT EXISTS (SELECT FROM feedback WHERE decision_id = d.id) "
        "ORDER BY substr(id, 20) LIMIT :most"
    )
    with engine.connect() as connection:
        ids = list(connection.scalars(asked, {"since": now - 30 * DAY, "most": _FEEDBACK}))
    store = DecisionStore(engine)
    taken = []
    for identifier in ids:
        started = time.perf_counter()
        [done] = store.feedback([Feedback(identifier, quality=1.0, cost_usd=0.001)])
        told = done.result()
        assert isinstance(told, frozenset), told
        taken.append(time.perf_counter() - started)
    store.close()
    return _percentiles("feedback", taken)


def _budgets(engine: sa.Engine, now: float) -> dict[str, float | None]:
    """What is read of budgets again and again, and once, when a budget is set within a month of which there are decisions."""
    begins = month_of(now).begins
    day = int(now // DAY * DAY)
    keys = [BudgetKey(f"key:key{n}", *one) for n in range(4) for one in (("day", day), ("month", begins))]
    first = _timed(lambda: totals_of(engine, keys))
    taken = [_timed(lambda: totals_of(engine, keys)) for _ in range(_BUDGETS)]
    return {"budgets_first_s": first, **_percentiles("budgets", taken)}


def _savings(engine: sa.Engine, now: float, days: int) -> float | None:
    """Seconds; None where the store does not answer in time."""
    window = Window(By.DAY, now - days * DAY, now)
    try:
        return _timed(lambda: savings(engine, window))
    except OperationalError:
        return None


def _import(url: str) -> dict[str, float | None]:
    """Rows per second of training's reading, after the first partition; what that one waits for is told by itself."""
    started = time.perf_counter()
    read = decisions.read_url(url)
    first = len(next(read).frame)
    waited, rows = time.perf_counter() - started, 0
    started = time.perf_counter()
    for one in islice(read, _READ // first):
        rows += len(one.frame)
    return {"import_first_s": waited, "import_rows_per_s": rows / (time.perf_counter() - started)}


def _percentiles(name: str, taken: list[float]) -> dict[str, float | None]:
    return {f"{name}_p{part}_s": float(np.percentile(taken, part)) for part in (50, 99)}


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


_ROWS = (
    ("feedback, until it is on the disk, p50", "feedback_p50_s", "ms"),
    ("feedback, p99", "feedback_p99_s", "ms"),
    ("8 budgets read, p99", "budgets_p99_s", "ms"),
    ("8 budgets set within the month, once", "budgets_first_s", "s"),
    ("savings of 30 days, before any day is summed", "unsummed_30_days_s", "s"),
    ("all days summed, in the background, once", "sum_up_s", "s"),
    ("savings of 30 days by day", "savings_30_days_s", "s"),
    ("savings of a year by day", "savings_year_s", "s"),
    ("all decisions counted, for the live figures", "total_s", "ms"),
    ("import: until the first rows", "import_first_s", "s"),
    ("import: rows per second then", "import_rows_per_s", "rows"),
    ("the oldest month pruned", "prune_month_s", "s"),
    ("load of the machine before", "load_before", "load"),
    ("load of the machine after", "load_after", "load"),
)


def section(found: dict[str, Any]) -> str:
    """The figures of all sizes beside what is promised."""
    sizes = {int(rows): one for rows, one in found["sizes"].items()}
    names = sorted(sizes)
    lines = [
        "### A year in the store",
        "",
        f"A year of decisions in a PostgreSQL of its own, on the same machine; feedback on {_FED_BACK:.0%} of them, half of "
        "them in conversations of three turns; each figure is of one run.",
        "",
        f"| | {' | '.join(f'{rows:,} decisions' for rows in names)} | aimed at |",
        f"|---|{'---|' * (len(names) + 1)}",
        f"| on the disk | {' | '.join(_said(sizes[rows]['bytes'] / 1e9, 'GB') for rows in names)} | |",
    ]
    for label, key, unit in _ROWS:
        if not any(key in one for one in sizes.values()):
            continue
        promised = found["promised"].get(key)
        bound = "" if promised is None else f"{'≥' if unit == 'rows' else '≤'} {_said(promised, unit)}"
        lines.append(f"| {label} | {' | '.join(_told(sizes[rows], key, unit) for rows in names)} | {bound} |")
    if (upgrade_of := found.get("upgrade")) is not None:
        lines += [
            "",
            f"The upgrade from version 5 to 6 holds a table of {upgrade_of['rows']:,} decisions for "
            f"{upgrade_of['seconds']:.1f} s, at a load of {upgrade_of['load']:.1f}.",
        ]
    return "\n".join(lines)


def _told(found: dict[str, float | None], key: str, unit: str) -> str:
    return _said(found[key], unit) if key in found else ""


def _said(value: float | None, unit: str) -> str:
    if value is None:
        return "not within 30 s"
    said = {"GB": f"{value:.1f} GB", "ms": f"{value * 1e3:.1f} ms", "s": f"{value:.1f} s"}
    return said.get(unit, f"{value:,.1f}" if unit == "load" else f"{value:,.0f}")


def main(rows: Annotated[int, typer.Option()], work: Annotated[Path, typer.Option()] = Path(".cache/scale")) -> None:
    """Measure a store of so many decisions alone, for the next `measure` in this folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work.mkdir(parents=True, exist_ok=True)
    typer.echo(json.dumps(_kept(work, f"year-{rows}", partial(measured, rows=rows)), indent=1))


if __name__ == "__main__":
    typer.run(main)
