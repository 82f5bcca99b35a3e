"""Requests -> train, calibration and test, whole conversations at a time, the newest last.

A group is a set of requests that share a conversation or a text. Groups never straddle two parts: a router that
has seen the same text, or the turn before, would be tested on its memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold

from serving.bundle.arrays import Bools, Columns
from training.errors import TrainingError

Order = Literal["time", "random"]

TELLING_WORDS = 8
_MOST_CONVERSATIONS = 10
_STAND_IN = 16  # characters of one that has too few words to tell
_WORDS: dict[Order, str] = {"time": "by time", "random": "at random"}


class SplitError(TrainingError):
    """The requests cannot be split as asked: says how many arrived and how many are needed."""


@dataclass(frozen=True)
class Split:
    """Masks over n requests, each of shape (n,), disjoint and together complete.

    `dropped` are requests kept out because they share a group with a given test request. `note` says what was done,
    for the report.
    """

    train: Bools
    calibration: Bools
    test: Bools
    dropped: Bools
    method: Literal["time", "random", "given"]
    note: str


def group_requests(texts: Sequence[str], sessions: Sequence[str | None]) -> Columns:
    """Group ids, shape (n,), 0 to g-1 by first appearance: connected by the same session or the same text.

    Texts that differ only in case and whitespace are the same. A null session connects nothing. Conversations of several
    requests are not connected by a text below `TELLING_WORDS` words ("hi", "yes please"), nor by one that more than
    `_MOST_CONVERSATIONS` of them have: it tells nothing of them, and would make one group of half a log.
    """
    if len(texts) != len(sessions):
        raise SplitError(f"expected one session per text, got {len(texts)} texts and {len(sessions)} sessions")
    n = len(texts)
    if n == 0:
        return np.zeros(0, dtype=np.intp)
    text = pd.factorize(np.array([" ".join(t.split()).casefold() for t in texts], dtype=object))[0]
    session = pd.factorize(np.array(list(sessions), dtype=object))[0]
    enough = np.fromiter((len(t.split()) >= TELLING_WORDS for t in texts), np.bool_, n)
    return connected_requests(text.astype(np.intp), enough, session.astype(np.intp))


def group_stand_ins(texts: Sequence[str], sessions: Sequence[str | None]) -> Columns:
    """`group_requests` of texts of which each is a `stand_in`, without a look at each."""
    text = pd.factorize(np.array(texts, dtype=object))[0]
    session = pd.factorize(np.array(list(sessions), dtype=object))[0]
    enough = np.fromiter((len(one) > _STAND_IN for one in texts), np.bool_, len(texts))
    if not len(texts):
        return np.zeros(0, dtype=np.intp)
    return connected_requests(text.astype(np.intp), enough, session.astype(np.intp))


def connected_requests(text: Columns, enough_words: Bools, session: Columns) -> Columns:
    """`group_requests` by numbers, (n,) each: of the text, whether it has enough words to tell, of the session (-1: none)."""
    n = len(text)
    known = session >= 0
    size_of = np.bincount(session[known], minlength=1)
    inside = known & (np.where(known, size_of[session], 0) > 1)
    pairs = np.unique(text[inside] * len(size_of) + session[inside])
    said_in = np.bincount(pairs // len(size_of), minlength=int(text.max(initial=-1)) + 1)
    telling = ~inside | (enough_words & (said_in[text] <= _MOST_CONVERSATIONS))
    # A graph of requests, texts and sessions: two requests are connected through what they share.
    size = n + int(text.max()) + 1 + int(session.max()) + 1
    number = np.int32 if size <= np.iinfo(np.int32).max else np.int64
    rows = np.concatenate([np.flatnonzero(telling), np.flatnonzero(known)]).astype(number)
    columns = np.concatenate([n + text[telling], n + text.max() + 1 + session[known]]).astype(number)
    del pairs, said_in, size_of, inside, telling
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return np.asarray(pd.factorize(labels[:n])[0], dtype=np.intp)


def stand_in(text: str) -> str:
    """A short text that `group_requests` groups with others as it would this one, and from which nobody reads it."""
    words = text.split()
    digest = hashlib.blake2b(" ".join(words).casefold().encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return digest + " -" * (TELLING_WORDS - 1) if len(words) >= TELLING_WORDS else digest


def conversations(sessions: Sequence[str | None]) -> Columns:
    """Group ids, shape (n,), 0 to g-1: one for each session, and one for each request without a session."""
    group = pd.factorize(np.array(list(sessions), dtype=object))[0].astype(np.intp)
    alone = group < 0
    group[alone] = group.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return group


def split_requests(
    groups: Columns,
    timestamps: npt.NDArray[np.datetime64],
    given: npt.NDArray[np.object_],
    *,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    method: Literal["auto", "time", "random", "given"] = "auto",
    seed: int = 0,
) -> Split:
    """Split n requests by whole groups; `groups`, `timestamps` (UTC, or NaT) and `given` have shape (n,).

    auto: "given" if a request is given as "test", else "time" if all have a timestamp and these differ, else "random".
    time: groups in the order of their last request, the newest for test. random: groups in seeded order, in which those of a
    log come as they did before requests were added at its end.
    given: the given test requests are the test; the rest of their groups is dropped, and the other requests become
    train and calibration by time or at random as above. `fractions` (train, calibration, test) are of requests and
    met as closely as whole groups allow. Raises SplitError when a part would be empty.
    """
    n = len(groups)
    if not (len(timestamps) == len(given) == n):
        raise SplitError(f"expected equal lengths, got {n} groups, {len(timestamps)} timestamps, {len(given)} given")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise SplitError(f"fractions: expected three positive numbers that sum to 1, got {fractions}")
    stamps = np.asarray(timestamps, dtype="datetime64[us]")
    # Not `given == "test"`: a null in the array (None, NaN, pd.NA) must count as not given, and pd.NA spreads.
    tested = np.fromiter((isinstance(part, str) and part == "test" for part in given), dtype=bool, count=n)
    if method == "given" or (method == "auto" and tested.any()):
        return _split_given(groups, stamps, tested, fractions[:2], seed)
    chosen: Order = _by(stamps) if method == "auto" else method
    if chosen == "time" and np.isnat(stamps).any():
        raise SplitError(f"a split by time needs every timestamp; {np.isnat(stamps).sum()} of {n} requests have none")
    train, calibration, test = _cut(groups, stamps, fractions, chosen, seed)
    note = _note(chosen, method, stamps, train, calibration, test)
    return Split(train, calibration, test, dropped=np.zeros(n, dtype=bool), method=chosen, note=note)


def folds(groups: Columns, k: int, seed: int = 0) -> Columns:
    """Fold ids 0 to k-1, shape (n,): whole groups, sizes as equal as the groups allow; raises SplitError."""
    labels, group = np.unique(groups, return_inverse=True)
    if k < 2 or len(labels) < k:
        raise SplitError(
            f"{len(groups)} requests of the training part are in {len(labels)} groups (same conversation or same text), and "
            f"cross-fitting in {k} folds needs 2 folds or more and a group for each; give more requests, set fit.folds, or "
            "see that prompt and session_id are read from the fields that hold them"
        )
    # The largest groups come first, each to the lightest fold; which of equal ones comes first the seed decides.
    shuffled = np.argsort(np.random.default_rng(seed).permutation(len(labels))[::-1])[group]
    fold = np.zeros(len(groups), dtype=np.intp)
    for held, (_, rows) in enumerate(GroupKFold(k).split(shuffled, groups=shuffled)):
        fold[rows] = held
    return fold


def workflow_folds(groups: Columns, workflow: npt.NDArray[np.object_], k: int, seed: int = 0) -> Columns:
    """Fold ids, shape (n,), that leave whole workflows out: at most `k` folds, one for each workflow where they are fewer.

    A group that has requests of several workflows goes with its first request's. One without a workflow is a workflow of
    its own. With fewer than two workflows, `folds` as usual. Raises SplitError as `folds` does.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    named = [workflow[row] for row in first.tolist()]
    kinds = {name for name in named if name is not None}
    if len(kinds) < 2:
        return folds(groups, k, seed)
    number = {name: place for place, name in enumerate(sorted(kinds))}
    of_group = [len(kinds) + place if name is None else number[name] for place, name in enumerate(named)]
    of_request = np.array(of_group, dtype=np.intp)[member]
    return folds(of_request, min(k, len(np.unique(of_request))), seed)


def _split_given(
    groups: Columns, stamps: npt.NDArray[np.datetime64], tested: Bools, fractions: tuple[float, ...], seed: int
) -> Split:
    if not tested.any():
        raise SplitError(f"a given split needs requests whose split is 'test'; none of {len(groups)} has it")
    dropped = np.isin(groups, groups[tested]) & ~tested
    rest = ~tested & ~dropped
    inner = _by(stamps[rest])
    train, calibration = (np.zeros(len(groups), dtype=bool) for _ in range(2))
    scaled = tuple(fraction / sum(fractions) for fraction in fractions)
    train[rest], calibration[rest] = _cut(groups[rest], stamps[rest], scaled, inner, seed)
    note = f"test as given; train and calibration {_WORDS[inner]}; {_sizes(train, calibration, tested)}"
    if dropped.any():
        note += f"; {dropped.sum()} requests dropped that share a conversation or a text with a test request"
    return Split(train, calibration, tested, dropped, "given", note)


def _by(stamps: npt.NDArray[np.datetime64]) -> Order:
    """What auto splits by. One shared timestamp, say that of an export, orders nothing."""
    return "time" if not np.isnat(stamps).any() and len(np.unique(stamps)) > 1 else "random"


def _cut(
    groups: Columns, stamps: npt.NDArray[np.datetime64], fractions: Sequence[float], by: Order, seed: int
) -> list[Bools]:
    """One mask per fraction: whole groups in order, cut where the share of requests comes closest."""
    parts = len(fractions)
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if len(sizes) < parts:
        raise SplitError(
            f"{len(groups)} requests in {len(sizes)} groups (same conversation or same text) arrived, but "
            f"{parts} non-empty parts need at least {parts} groups; give more requests, or see that prompt and session_id are "
            "read from the fields that hold them"
        )
    # A number for each request, by its place alone: as a log grows at its end, nearly all groups stay in their part, and few
    # requests that were learned from come to be measured on.
    order = np.argsort(np.random.default_rng(seed).random(len(groups))[first], kind="stable")
    if by == "time":
        last = np.full(len(sizes), np.iinfo("int64").min)
        np.maximum.at(last, group, stamps.astype("int64"))
        # Stable on the shuffled order: among equal times the log's own order, often by workflow, decides nothing.
        order = order[np.argsort(last[order], kind="stable")]
    ends = np.cumsum(sizes[order])
    part_of = np.zeros(len(sizes), dtype=np.intp)
    start = 0
    for part, share in enumerate(np.cumsum(fractions)[:-1]):
        closest = int(np.abs(ends - share * len(groups)).argmin()) + 1
        start = min(max(closest, start + 1), len(sizes) - (parts - 1 - part))
        part_of[order[start:]] = part + 1
    return [part_of[group] == part for part in range(parts)]


def _note(by: Order, method: str, stamps: npt.NDArray[np.datetime64], *masks: Bools) -> str:
    note = f"whole groups {_WORDS[by]}; {_sizes(*masks)}"
    if by == "time" or method == "random":
        return note
    missing = int(np.isnat(stamps).sum())
    why = f"{missing} of {len(stamps)} requests have no timestamp" if missing else "all timestamps are the same"
    return f"{note}; not by time: {why}"


def _sizes(*masks: Bools) -> str:
    names = ("train", "calibration", "test")
    return ", ".join(f"{name} {mask.sum()}" for name, mask in zip(names, masks, strict=True))
