"""What `router-train run` goes on from: rows and choices that an earlier run kept, or its choices alone."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from serving.bundle.catalogue import Candidate
from training.cli.options import LogOptions, Settings
from training.cli.reading import ReadLog
from training.cli.show import Tell, say
from training.config import Params
from training.dataset.matrix import Objects, requests_of
from training.kept.files import Kept, KeptError, added_before, changed_prices, newest_kept, open_kept
from training.kept.keeping import Keeping, prices_of
from training.kept.rows import Joined, hashed_rows, missing_rows, read_rows
from training.kept.settings import settings_since
from training.kept.since import Resumed, add_rows, resume
from training.learn.heads.chosen import Choices
from training.logs.outcomes import Outcomes
from training.logs.repeated.told import overlap
from training.logs.stored.memory import limits
from training.prices.found import with_found_prices


@dataclass(frozen=True)
class Earlier:
    """What was `kept` of the bundle that new rows are added to, and the `choices` that are kept to; None: as any run."""

    kept: Kept | None = None
    choices: Choices | None = None

    def params(self, settings: Settings) -> Params:
        """The parameters that were asked for, over those that were kept; raises ConfigError, or KeptError."""
        asked = settings.load()
        if self.kept is None:
            return asked
        named = {override.partition("=")[0].strip() for override in settings.overrides}
        if settings.params is not None:
            tables = tomllib.loads(settings.params.read_text(encoding="utf-8"))
            named |= {f"{stage}.{key}" for stage, values in tables.items() for key in values}
        return settings_since(self.kept.params, asked, named)

    def keeping(
        self, log: LogOptions, rows: pd.DataFrame | None, outcomes: Outcomes, params: Params, resumed: Resumed | None
    ) -> Keeping | None:
        """What keeps this run for a later one; None where nothing is to be kept."""
        if rows is None:
            return None
        return Keeping(rows, params, outcomes.formats, log.cache, self.kept, resumed, self.choices)


def earlier_run(since: Path | None, choices_of: Path | None, log: LogOptions, *, keep_text: bool) -> Earlier:
    """What the options name; raises KeptError where it is not there, or does not go with the other options."""
    if since is not None and choices_of is not None:
        raise KeptError(
            "--since keeps the choices of its bundle: leave --choices-of out, or train on everything with it"
        )
    if since is None:
        return Earlier() if choices_of is None else Earlier(choices=open_kept(choices_of, whole=False).choices)
    kept = open_kept(newest_kept(since), whole=log.given and not keep_text)
    if not log.given:
        raise KeptError("--since adds rows to what was kept: give them with --data")
    if keep_text:
        raise KeptError(
            "--keep-text: of requests that were learned from before no text is kept. Train on everything with it"
        )
    return Earlier(kept, kept.choices)


def rows_to_keep(found: ReadLog, params: Params) -> pd.DataFrame | None:
    """The rows of a log as a later run needs them; None where `since.keep` is off."""
    if not params.since.keep:
        return None
    return hashed_rows(found.outcomes.frame, stand_ins=found.stored is not None)


def put_together(
    kept: Kept,
    found: ReadLog,
    params: Params,
    prices: Mapping[str, Candidate],
    cache: Path,
    memory_gb: float | None,
    tell: Tell,
) -> tuple[ReadLog, dict[str, Candidate], Resumed]:
    """The log that was read behind what was kept: its account with what was skipped as known, the prices of all candidates, and
    what the run goes on with."""
    tell("read what was kept", None, None)
    joined = add_rows(kept, found.outcomes, stand_ins=found.stored is not None)
    limits(params.scale, memory_gb).require(kept.requests + joined.added)
    known, notes = with_found_prices(joined.frame, prices)
    resumed = resume(kept, joined, _requests(found, tell), params, known, cache, tell)
    before = kept.formats
    if overlap({*before, *joined.new.formats}) and not overlap(before) and not overlap(joined.new.formats):
        notes = (
            *notes,
            f"outcomes that the new log ({', '.join(joined.new.formats)}) and the earlier one ({', '.join(before)}) both tell "
            "count twice: logs of several kinds are put together within one run alone",
        )
    if left_out := _left_out(kept, joined):
        notes = (*notes, left_out)
    if changed := changed_prices(kept.prices, prices_of(resumed.prepared.candidates)):
        notes = (
            *notes,
            f"prices changed since: {', '.join(changed)}; costs by tokens, old ones too, are at the new ones",
        )
    outcomes = replace(
        joined.new,
        frame=joined.new.frame.iloc[:0],
        rows_read=kept.rows + joined.new.rows_read,
        notes=(*joined.new.notes, *notes),
    )
    return replace(found, outcomes=outcomes), known, resumed


def _left_out(kept: Kept, joined: Joined) -> str | None:
    """What the newest bundle with rows that were added to the same before has, and this log has not."""
    for other in reversed(added_before(kept)):
        try:
            rows = read_rows(other)
        except KeptError:  # nothing can be added to it either
            continue
        if not (missing := missing_rows(joined.frame.iloc[kept.rows :], rows.iloc[kept.rows :])):
            return None
        return (
            f"{missing:,} of the {other.rows - kept.rows:,} rows that were added to {kept.bundle} before, for {other.bundle}, "
            f"are not in this log: go on from that one, promoted or not, to have them too (--since "
            f"{kept.folder.parent.parent / other.bundle})"
        )
    return None


def _requests(found: ReadLog, tell: Tell) -> Callable[[Objects], Objects]:
    """What gives new requests by their ids, with their texts."""
    if found.stored is not None:
        stored = found.stored
        return lambda ids: stored.requests_of(ids, tell)
    first = found.outcomes.frame.drop_duplicates("request_id")
    place = pd.Index(first["request_id"])
    return lambda ids: (
        requests_of(first.iloc[place.get_indexer(pd.Index(ids))]) if len(ids) else np.empty(0, dtype=object)
    )


def said(resumed: Resumed, found: ReadLog, told: Sequence[str]) -> None:
    """Tells what was added, and what is to be known of it besides what was `told` of the new log."""
    say("\n".join([resumed.said, *(note for note in found.outcomes.notes if note not in told)]))


def next_rows(out: Path, version: str) -> str:
    """How to go on from a bundle that was not promoted: what is current does not know its rows."""
    return f"Tomorrow's rows: router-train run --data NEW --since {out / version} ({out / 'current'} has not got today's rows)."
