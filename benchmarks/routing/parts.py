"""The benchmark's data sets, and the parts of it that are measured by themselves: learning from little, and conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.routing import certified, newcomer, protocol, purchase, scarce
from benchmarks.routing.protocol import LIGHT, DataSet
from training.config import Params
from training.evaluate.splits import by_prompt
from training.learn.encode import encode
from training.learn.prepare import prepare
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import SimulatedLog, simulate

CACHE = Path(".cache")
PUBLIC = {"RouterBench": "routerbench", "RouteLLM": "routellm"}
SIMULATED = "simulated log"
# As many requests as the longest curve takes, and a tenth to test on.
_LARGE = 70_000


def load_set(name: str, data: Path, params: Params, seed: int) -> DataSet:
    """A data set; the simulated log is another one for each seed."""
    if name != SIMULATED:
        catalogue = load_catalogue(SHIPPED)
        return protocol.load(name, [data / PUBLIC[name]], params, catalogue, CACHE)
    return simulated_log(params, params.simulate.requests, seed)[0]


def simulated_log(params: Params, requests: int, seed: int) -> tuple[DataSet, SimulatedLog]:
    """A simulated log of so many requests, and the truth behind it."""
    catalogue = load_catalogue(SHIPPED)
    log = simulate([catalogue[name] for name in params.simulate.candidates], requests=requests, seed=seed)
    prepared = prepare(validate(log.outcomes, source="simulated", format="simulated").frame, params, catalogue)
    return DataSet(SIMULATED, prepared, encode(prepared, params, CACHE)[0], simulated=True), log


def suited(part: str, names: Sequence[str]) -> list[str]:
    """The sets that a part is measured on: some take complete outcomes, and some what only the simulator has."""
    if part in ("outcomes per candidate", "graded"):
        return [name for name in names if name == SIMULATED]
    if part == "new candidate":
        return [name for name in names if name == "RouterBench"]
    if part == "one outcome":
        return [name for name in names if name != SIMULATED]
    return list(names)


def one_part(part: str, name: str, folder: Path, params: Params, seeds: Sequence[int]) -> dict[str, Any]:
    """One part on one set, the mean over seeds."""
    measures: Mapping[str, Callable[[DataSet, Params, int], Any]] = {
        "learning curves": scarce.learning_curve,
        "one outcome": lambda data, seeded, seed: _one_outcome(data, seeded, seed, scarce.REPEATS // len(seeds)),
        "conversations": lambda data, seeded, seed: _conversations(
            data, seeded, seed, certified.RESPLITS // len(seeds)
        ),
        "graded": scarce.graded,
        "small logs": lambda data, seeded, seed: certified.small_logs(
            data, seeded, seed, certified.SMALL_DRAWS // len(seeds), seeded.policy.quality_target
        ),
    }
    if part == "unseen workflows":  # every part of the log is left out once: one seed
        light = replace(params, fit=replace(params.fit, estimators=LIGHT))
        return scarce.unseen_workflows(load_set(name, folder, params, seeds[0]), light, seeds[0], parts=8)
    if part == "bought evidence":  # its logs are drawn by itself, another one for each seed
        return purchase.part(name, None if name == SIMULATED else folder / PUBLIC[name], params, seeds)
    if part == "new candidate":  # its seeds are resampled, not only averaged
        return _new_candidate(load_set(name, folder, params, seeds[0]), params, seeds)
    found = []
    data = None
    for seed in seeds:
        seeded = replace(params, fit=replace(params.fit, seed=seed))
        if part == "outcomes per candidate":
            large, log = simulated_log(params, _LARGE, seed)
            found.append(scarce.outcomes_per_candidate(scarce.with_true_outcomes(large, log, seed), seeded, seed))
            continue
        if data is None or name == SIMULATED:
            data = load_set(name, folder, params, seed)
        found.append(measures[part](data, seeded, seed))
    return means(found)


def _new_candidate(data: DataSet, params: Params, seeds: Sequence[int]) -> dict[str, Any]:
    seeded = [replace(params, fit=replace(params.fit, seed=seed)) for seed in seeds]
    return newcomer.shares([newcomer.new_candidate(data, one, seed) for one, seed in zip(seeded, seeds, strict=True)])


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each figure that every row has, tables of figures too."""
    keys = [key for key in rows[0] if all(key in row for row in rows)]
    return {
        key: means([row[key] for row in rows])
        if isinstance(rows[0][key], Mapping)
        else float(np.mean([row[key] for row in rows]))
        for key in keys
    }


def _one_outcome(data: DataSet, params: Params, seed: int, repeats: int) -> dict[str, float]:
    """The mean over `MASKINGS` draws of which outcome each request keeps: one draw differs from the next by a fifth."""
    prepared = by_prompt(data.prepared, seed)
    full = protocol.trial(data, prepared, params)
    draws = range(scarce.MASKINGS * seed, scarce.MASKINGS * (seed + 1))
    return means([scarce.one_outcome(data, prepared, full, params, draw, repeats // scarce.MASKINGS) for draw in draws])


def _conversations(data: DataSet, params: Params, seed: int, draws: int) -> dict[str, float]:
    run = protocol.trial(data, by_prompt(data.prepared, seed), params)
    return means(certified.conversations(data, run, params, seed, draws, params.policy.quality_target))
