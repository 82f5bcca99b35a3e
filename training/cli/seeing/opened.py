"""What a notebook looks at: the bundle, the log and the store that the environment names, opened and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.catalogue import Candidate
from serving.decide.router import Router
from training.cli.logs import simulated_log
from training.cli.options import LogOptions, load_prices
from training.cli.reading import ReadLog, priced, read
from training.config import DEFAULTS, Params, load_params
from training.dataset.inputs import silent
from training.errors import TrainingError
from training.inspect.tables import with_costs
from training.learn.prepare import fingerprint
from training.logs.objects.address import is_object_url, shown
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.publish.document import SCHEMA, frontier_document, read_document
from training.whatif.case import Case
from training.whatif.outcome import Outcome
from training.whatif.store import is_store

# As many resamples as a band takes that is looked at.
_RESAMPLES = "evaluate.resamples=200"


class NotOpenedError(TrainingError):
    """What a section of a notebook needs and was not given; the message says how to give it."""


@dataclass(frozen=True)
class Opened:
    """A bundle and its `frontier.json`, a log and where it is from; what is not there is None, and `why_*` says why.

    `out` is the folder for what a notebook writes.
    """

    params: Params
    catalogue: Mapping[str, Candidate]
    cache: Path
    out: Path
    router: Router | None
    why_no_bundle: str
    table: Outcomes | None
    log: str
    source: str | None
    why_no_log: str
    store: str | None
    simulated: bool

    @property
    def bundle(self) -> Router:
        """The router of the bundle; raises NotOpenedError without one."""
        if self.router is None:
            raise NotOpenedError(self.why_no_bundle)
        return self.router

    @property
    def outcomes(self) -> Outcomes:
        """The log; raises NotOpenedError without one."""
        if self.table is None:
            raise NotOpenedError(self.why_no_log)
        return self.table

    @property
    def frame(self) -> pd.DataFrame:
        """The log's outcome table, with costs by tokens and prices where none was logged; raises NotOpenedError without one."""
        return with_costs(self.outcomes.frame, self.catalogue)

    @property
    def decided(self) -> str:
        """The store; raises NotOpenedError without one."""
        if self.store is None:
            raise NotOpenedError(
                "No store of a service was given: STORE=path/to/decisions.db (or postgresql://…), which is what ROUTER_STORE "
                "names when it is served; LOG= may name it as well"
            )
        return self.store

    @property
    def document(self) -> dict[str, Any]:
        """What the bundle was measured to give; raises NotOpenedError where it does not say."""
        found = read_document(self.bundle.bundle.folder)
        if found is None or found.get("schema") != SCHEMA:
            raise NotOpenedError(
                f"the bundle {self.bundle.manifest.version} has no frontier.json of schema {SCHEMA}; train again to get one"
            )
        return found

    @property
    def simulated_bundle(self) -> bool:
        return self.router is not None and self.router.manifest.simulated

    def case(self) -> Case:
        """The bundle on the log; raises a TrainingError without either, or where the two have nothing in common."""
        return Case.of(self.bundle, self.outcomes, self.catalogue, self.params)

    def sample(self, most: int) -> Outcomes:
        """So many requests of the log at random, or all of them."""
        table = self.outcomes
        ids = table.frame["request_id"].unique()
        if len(ids) <= most:
            return table
        kept = np.random.default_rng(0).permutation(len(ids))[:most]
        rows = table.frame["request_id"].isin(ids[kept])
        beside = table.beside[rows.to_numpy()].reset_index(drop=True) if len(table.beside) else table.beside
        return replace(table, frame=table.frame[rows].reset_index(drop=True), beside=beside)

    def told(self) -> tuple[str, ...]:
        """What is looked at, a sentence each."""
        manifest = None if self.router is None else self.router.manifest
        bundle = (
            self.why_no_bundle
            if manifest is None
            else (
                f"Bundle {manifest.version} of {len(manifest.candidates)} candidates, reference {manifest.reference}"
                f"{', made from SIMULATED outcomes' if manifest.simulated else ''}."
            )
        )
        frame = None if self.table is None else self.table.frame
        log = (
            self.why_no_log
            if frame is None
            else f"Log: {self.log}, {frame['request_id'].nunique():,} requests, {len(frame):,} outcomes."
        )
        return bundle, log


def opened(environment: Mapping[str, str]) -> Opened:
    """What BUNDLE, LOG and STORE name; without BUNDLE `models/current`, and without LOG the store, or the simulated log where
    the bundle was made from one.

    Folders and files may be named from the caller's folder (PWD) or from this one. OUT is where notebooks write (default: out),
    CACHE is that of training (default: .cache). Raises a TrainingError for what is named and is not there.
    """
    named = {name: environment.get(name, "").strip() for name in ("BUNDLE", "LOG", "STORE", "OUT", "CACHE")}
    places = _places(environment)
    home = places[-1]
    params, prices = load_params(DEFAULTS, (_RESAMPLES,)), load_prices(_at(home, "candidates.toml"))
    cache = Path(named["CACHE"]) if named["CACHE"] else home / ".cache"
    folder = _found(named["BUNDLE"], places, "BUNDLE") if named["BUNDLE"] else _there("models/current", places)
    router = None if folder is None else Router.load(folder)
    log, store = (_source(named[name], places, name) for name in ("LOG", "STORE"))
    if store is not None and not is_store(store):
        raise NotOpenedError(f"STORE={named['STORE']}: expected the store of router-serve, which this is not")
    if store is None and log is not None and is_store(log):
        store = log
    table, said, why, simulated = None, log or "", "", False
    if log or store:
        options = LogOptions(data=(log or store or "",), cache=cache)
        found, prices = priced(read(options, prices, params.judge, silent), prices)
        table, said = (
            found.outcomes,
            Path(log or store or "").name if "://" not in (log or store or "") else _of_url(log or store or ""),
        )
    elif router is None or router.manifest.simulated:
        made = ReadLog(
            validate(simulated_log(params, prices).outcomes, source="simulated", format="simulated"), (), None
        )
        table, simulated = made.outcomes, True
        own = router is not None and router.manifest.data_fingerprint == fingerprint(table.frame)
        said = "the SIMULATED one" + (" that the bundle was made from" if own else " that training makes up by default")
    else:
        why = "No log was given: LOG=path/to/log names the one to look at (the bundle's own, or any other)."
    return Opened(
        params=params,
        catalogue=prices,
        cache=cache,
        out=Path(named["OUT"]) if named["OUT"] else home / "out",
        router=router,
        why_no_bundle="" if router else "There is no bundle: `make train`, or BUNDLE=path/to/models/current.",
        table=table,
        log=said,
        source=log or store,
        why_no_log=why,
        store=store,
        simulated=simulated or (router is not None and router.manifest.simulated and not log and not store),
    )


def document_of(outcome: Outcome) -> dict[str, Any]:
    """What comes of a case in the form of a bundle's `frontier.json`, which every chart takes."""
    return frontier_document(outcome.bundle, outcome.evaluation)


def _places(environment: Mapping[str, str]) -> list[Path]:
    """Where a relative path may be from: the kernel's folder, the caller's, the project's."""
    here = Path.cwd()
    home = here.parent if here.name == "notebooks" else here
    return [here, *([Path(environment["PWD"])] if environment.get("PWD") else []), home]


def _there(name: str, places: list[Path]) -> Path | None:
    return next((place / name for place in places if (place / name).exists()), None)


def _found(name: str, places: list[Path], variable: str) -> Path:
    found = _there(name, places)
    if found is None:
        raise NotOpenedError(f"{variable}={name}: no such file or folder, looked for in {', '.join(map(str, places))}")
    return found


def _source(name: str, places: list[Path], variable: str) -> str | None:
    """A URL as it is, a path made absolute; None where none is named."""
    if not name:
        return None
    return name if "://" in name or name.startswith(("langfuse:", "hf:")) else str(_found(name, places, variable))


def _of_url(url: str) -> str:
    return shown(url) if is_object_url(url) else "a database"


def _at(home: Path, name: str) -> Path:
    return home / name if (home / name).is_file() else Path(name)
