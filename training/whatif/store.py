"""The decisions of a service that runs or ran, a row each with the feedback on it, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa

from serving.account.asked import Tables, asked
from serving.account.savings import Account
from serving.account.window import By, Window
from serving.bundle.arrays import Columns
from serving.bundle.manifest import NO_WORKFLOW
from serving.decide.decision import Reason
from serving.traffic.stability import beyond_chance, by_chance
from training.dataset.label import acceptable
from training.evaluate.reliability import Bin, bins, interval
from training.logs.io import database
from training.logs.outcomes import OutcomeError
from training.logs.sources import decisions

# Columns that hold text of requests, which no figure needs.
_TEXTS = ("prompt", "messages")
_OF_FEEDBACK = (
    "candidate",
    "quality",
    "quality_source",
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "latency_ms",
    "error",
)
_JUDGED = ("judged", "thumb")
# Where chance alone makes the index of a small shift, so few decisions tell of none.
_MOST_BY_CHANCE = 0.1


def url_of(named: str) -> str:
    """The URL of a store that is named by its file or its URL."""
    return named if "://" in named else database.url_of(Path(named))


def is_store(named: str) -> bool:
    """Whether this is the store of a service; raises OutcomeError where a database cannot be reached."""
    if "://" in named:
        return named.split(":", 1)[0].split("+")[0] in decisions.SCHEMES and decisions.recognises_url(named)
    return Path(named).is_file() and decisions.recognises(Path(named))


def read_decisions(named: str, *, most: int = 1_000_000) -> pd.DataFrame:
    """The newest `most` decisions by time, each with the feedback on it, without any text of a request.

    `at` is a UTC time; what feedback says is under `told_` and its name, `fed_back` says whether there is any. Columns that the
    store's version lacks are empty. Raises OutcomeError.
    """
    url = url_of(named)
    with database.connected(url, steady=True) as (connection, schema):
        made, said, *_ = decisions.tables(connection, url, schema)
        columns = [column for column in made.columns if column.name not in _TEXTS]
        told = [said.c[name].label(f"told_{name}") for name in _OF_FEEDBACK if name in said.c]
        query = sa.select(*columns, said.c.decision_id.is_not(None).label("fed_back"), *told)
        query = query.select_from(made.outerjoin(said, said.c.decision_id == made.c.id))
        rows = connection.execute(query.order_by(made.c.at.desc(), made.c.id).limit(most)).mappings().all()
    named_columns = [*(column.name for column in columns), "fed_back", *(f"told_{name}" for name in _OF_FEEDBACK)]
    frame = pd.DataFrame([dict(row) for row in rows], columns=named_columns)
    frame = frame.iloc[::-1].reset_index(drop=True)
    frame["at"] = pd.to_datetime(frame["at"].astype(float), unit="s", utc=True)
    for name in ("workflow",):
        frame[name] = frame[name].fillna(NO_WORKFLOW).astype(str)
    for name in _NUMBERS:
        if name in frame:
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    return frame


_NUMBERS = (
    "propensity", "confidence", "expected_cost_usd", "novelty", "cluster", "shadow_confidence", "shadow_expected_cost_usd",
    "also_propensity", "also_expected_cost_usd", "told_quality", "told_cost_usd", "told_latency_ms",
)  # fmt: skip


def savings(named: str, by: By, frame: pd.DataFrame, *, judge_usd: float = 0.0) -> Account:
    """The same account as `router-train savings`, over all the time of these decisions; raises OutcomeError."""
    if frame.empty:
        raise OutcomeError(f"{database.shown(url_of(named))}: there is no decision in the store yet")
    url = url_of(named)
    since, until = frame["at"].min().timestamp(), frame["at"].max().timestamp()
    with database.connected(url, steady=True) as (connection, schema):
        made, said, *also = decisions.tables(connection, url, schema)
        window = Window(by, since, max(until + 1.0, since + 1.0))
        return asked(connection, Tables(made, said, also[0] if also else None), window, judge_usd=judge_usd)


@dataclass(frozen=True)
class Drift:
    """How far the decisions' prompts are from those the bundle was trained on: `psi` of clusters, less what chance makes of it
    (`by_chance`), and the share that is novel.

    `decisions` is how many say it, by one bundle: `psi` is None where these are so few that chance alone makes 0.1 of it. By
    custom 0.1 is a small shift and 0.25 a large one.
    """

    decisions: int
    psi: float | None
    by_chance: float
    novel: float


def drift(frame: pd.DataFrame, shares: Sequence[float], threshold: float, bundle: str) -> Drift | None:
    """None where no decision of the bundle has a cluster. `shares` are the training prompts', by cluster."""
    own = frame[(frame["bundle"] == bundle) & frame["cluster"].notna()]
    if own.empty:
        return None
    count = len(own)
    novel, own = float((own["novelty"] > threshold).mean()), own[own["cluster"] < len(shares)]
    clusters, conversations = own["cluster"].to_numpy(dtype=np.intp), _conversations(own)
    chance = by_chance(shares, clusters, conversations)
    found = beyond_chance(shares, clusters, conversations) if chance <= _MOST_BY_CHANCE else None
    return Drift(count, found, chance, novel)


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The decisions whose own answer somebody judged: no hint at a bad one, and no other candidate's answer."""
    known = frame["told_quality"].notna() & frame["confidence"].notna()
    known &= frame["told_quality_source"].isna() | frame["told_quality_source"].isin(_JUDGED)
    known &= frame["told_candidate"].isna() | (frame["told_candidate"] == frame["candidate"])
    return frame[known]


def calibration(frame: pd.DataFrame, threshold: float) -> tuple[Bin, ...]:
    """Whether the confidence of decisions came true, in bins of judged answers; empty without any."""
    own = judged(frame)
    labels = acceptable(own["told_quality"].to_numpy(dtype=np.float64), threshold)
    return bins(own["confidence"].to_numpy(dtype=np.float64), labels, _conversations(own))


def _conversations(own: pd.DataFrame) -> Columns:
    """(n,) which decisions are of one conversation: those of one session of one key, and any other by itself."""
    alone = own["session_id"].isna() if "session_id" in own else pd.Series(True, index=own.index)
    sessions = own.get("session_id", own["id"]).where(~alone, own["id"])
    groups = pd.DataFrame({"key": own.get("key"), "session": sessions, "alone": alone}).groupby(
        ["key", "session", "alone"], dropna=False
    )
    return np.asarray(groups.ngroup(), dtype=np.intp)


def exploration(frame: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Explored decisions against the others: how many, what they cost beyond what would have been chosen, and what was
    judged of them, with its 95% interval; decisions of one conversation are not taken for independent."""
    rows = []
    for name, part in (
        ("explored", frame[frame["reason"] == Reason.EXPLORE.value]),
        ("not explored", frame[frame["reason"] != Reason.EXPLORE.value]),
    ):
        own = judged(part)
        good = acceptable(own["told_quality"].to_numpy(dtype=np.float64), threshold)
        low, high = interval(good, _conversations(own)) if len(own) else (np.nan, np.nan)
        extra = pd.to_numeric(part["expected_cost_usd"] - _instead(part), errors="coerce").sum()
        rows.append(
            {
                "decisions": name,
                "how many": len(part),
                "share": len(part) / max(len(frame), 1),
                "lowest propensity": part["propensity"].min(),
                "extra USD, expected": float(extra) if name == "explored" else 0.0,
                "judged": len(own),
                "acceptable": float(good.mean()) if len(own) else np.nan,
                "95% from": low,
                "to": high,
            }
        )
    return pd.DataFrame(rows)


def shadow(frame: pd.DataFrame) -> pd.DataFrame:
    """The served bundle against its shadow, by workflow, over decisions that both made by themselves: none that was held
    back, nor one that was explored, which the served bundle would have made otherwise."""
    drawn = frame["reason"].isin([Reason.HELD_BACK.value, Reason.EXPLORE.value])
    asked_of = frame[frame["shadow_candidate"].notna() & ~drawn]
    return _compared(asked_of)


def _compared(frame: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name, part in [("(all)", frame), *frame.groupby("workflow", sort=True)]:
        if part.empty:
            continue
        rows.append(
            {
                "workflow": name,
                "decisions": len(part),
                "agree": float((part["candidate"] == part["shadow_candidate"]).mean()),
                "expected USD per 1,000": 1000 * part["expected_cost_usd"].mean(),
                "shadow's": 1000 * part["shadow_expected_cost_usd"].mean(),
                "confidence": part["confidence"].mean(),
                "shadow's confidence": part["shadow_confidence"].mean(),
            }
        )
    return pd.DataFrame(rows)


def outcome_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The decisions by the names that the charts of logs go by."""
    names: Mapping[str, str] = {
        "id": "request_id",
        "at": "timestamp",
        "told_quality": "quality",
        "told_cost_usd": "cost_usd",
    }
    return frame.rename(columns=dict(names))[
        ["request_id", "timestamp", "workflow", "candidate", "quality", "cost_usd"]
    ]


def _instead(frame: pd.DataFrame) -> pd.Series[float]:
    if "instead_expected_cost_usd" not in frame:
        return pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(frame["instead_expected_cost_usd"], errors="coerce")
