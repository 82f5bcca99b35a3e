"""Whether weak signals help: the same logs learned from with and without them, by the truth behind the simulation.

Each log has one answer per request, some of them judged, and the signals that users and answers would have shown on the others.
Everything else is equal between the arms, seed by seed, and nothing is measured on what was judged: the truth says what each
routing gives on the test part.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.stats import t

from serving.bundle.arrays import Floats
from training.config import WEAK, Params, Signals, load_params
from training.evaluate.baselines import Truth
from training.learn.encode import encode, with_kinds
from training.learn.estimators.registry import variants
from training.learn.heads.pair import fit_pair
from training.learn.hints import hints_of
from training.learn.prepare import prepare
from training.learn.training_data import cost_model, propensities, training_data
from training.logs.validate import validate
from training.measure.frontier import frontier, knob_grid, singles
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.signals import Behaviour, Showing, with_signals
from training.simulation.simulate import simulate

REQUESTS = 6_000
# Seeds that are reported are 0, 1, 2, ...; the weight that is recommended was chosen on others, from 1000 on.
SEEDS = 12
RECOMMENDED = 0.3
# Who asks again for the sake of it: users of these kinds of work do so after a quarter of the good answers too.
RESTLESS = {"creative-writing": 0.25, "translation": 0.25, "summarising": 0.25}
# Who asks again whatever came: then nothing is said of the answer.
IMPATIENT = Behaviour(showing={name: Showing(0.15, 0.15) if name == "retried" else Showing(0.0) for name in WEAK})
SPLIT = ("split.method=random", "split.train=0.7", "split.calibration=0.05")
_COMMAND = "python -m benchmarks.simulated.signals"
_BEGIN, _END = re.compile(rf"<!-- {re.escape(_COMMAND)}[^\n]* writes this -->"), "<!-- until here -->"


@dataclass(frozen=True)
class World:
    """What shows of answers, and the share of them that is judged."""

    behaviour: Behaviour
    judged: float


WORLDS: Mapping[str, World] = {
    "5% judged": World(Behaviour(), 0.05),
    "5% judged, some ask again anyway": World(Behaviour(restless=RESTLESS), 0.05),
    "5% judged, 15% asked again whatever came": World(IMPATIENT, 0.05),
    "50% judged": World(Behaviour(), 0.5),
}


@dataclass(frozen=True)
class Figures:
    """What a routing gives on n requests by the truth.

    `captured` is the share of the headroom between one candidate for everything and knowing the truth; `regret` is what is lost
    against the best choice at the middle knob, in quality.
    """

    captured: float
    regret: float


def weights_of(weight: float, sources: Collection[str] = WEAK) -> Signals:
    """This weight for these sources, none for the others."""
    return Signals(**{name: weight if name in sources else 0.0 for name in WEAK})


ARMS: Mapping[str, Signals] = {
    "not used (0)": weights_of(0.0),
    "schema, empty and cut at 0.3": weights_of(0.3, ("schema", "empty", "cut")),
    "all at 0.1": weights_of(0.1),
    "all at 0.3": weights_of(0.3),
    "all at 1": weights_of(1.0),
}


def figures(
    world: World, arms: Mapping[str, Signals], params: Params, cache: Path, seed: int, requests: int = REQUESTS
) -> dict[str, Figures]:
    """Each arm's figures on one log; `params` say how it is split, and the test part is what is measured on."""
    catalogue = load_catalogue(SHIPPED)
    made = simulate(
        [catalogue[name] for name in params.simulate.candidates],
        requests=requests,
        seed=seed,
        shadow_share=0.0,
        judged_share=1.0,
    )
    rows = with_signals(made.outcomes, world.behaviour, world.judged, seed + 1)
    table = validate(rows, source="simulated", format="simulated")
    prepared = prepare(table.frame, params, catalogue)
    inputs, _ = encode(prepared, params, cache)
    prepared, inputs = with_kinds(prepared, inputs, params)
    propensity, _ = propensities(prepared, inputs, params)
    data = training_data(prepared, inputs, propensity, params)
    train, test = prepared.split.train, prepared.split.test
    matrix = prepared.matrix.take(train)
    kinds = variants(params.fit, np.nanmean(matrix.cost_usd, axis=0))
    asked, everything = inputs.take(test), np.ones(len(matrix), dtype=np.bool_)
    expected = cost_model(prepared, matrix, data.inputs, everything, params).cost_usd(asked)
    ids, names = list(prepared.matrix.request_id[test]), list(prepared.matrix.candidates)
    truth = Truth(made.acceptable.loc[ids, names], made.cost_usd.loc[ids, names])
    found = {}
    for arm, signals in arms.items():
        own = replace(params, signals=signals)
        hints, _ = hints_of(matrix, data.weights, own)
        taught = replace(data, hints=hints)
        method = params.calibrate.method
        pair = fit_pair(taught, kinds, matrix.workflow, own, None, calibration=method)
        found[arm] = _figures(pair.predict(asked), expected, truth, params)
    return found


def _figures(estimate: Floats, expected: Floats, truth: Truth, params: Params) -> Figures:
    acceptable, cost = truth.acceptable.to_numpy(), truth.cost_usd.to_numpy()
    knobs = knob_grid(cost, params.policy.knob_steps)
    alone = singles(acceptable, cost)
    best = frontier(acceptable, cost, acceptable, cost, knobs)
    ours = frontier(estimate, expected, acceptable, cost, knobs)
    zero, top = alone.zero_router, alone.aiq(best.cost, best.quality)
    knob = float(np.median(knobs))
    worth, chosen = acceptable - knob * cost, (estimate - knob * expected).argmax(axis=1)
    regret = worth.max(axis=1) - worth[np.arange(len(worth)), chosen]
    return Figures((alone.aiq(ours.cost, ours.quality) - zero) / (top - zero), float(regret.mean()))


def lead(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The mean of paired differences, and its 95% interval by Student's t."""
    gaps = np.array(ours) - np.array(theirs)
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps))) * float(t.ppf(0.975, len(gaps) - 1))
    return float(gaps.mean()), float(gaps.mean()) - error, float(gaps.mean()) + error


def table(found: Mapping[str, Sequence[Mapping[str, Figures]]]) -> str:
    """By world and arm: headroom captured and regret, means over seeds, and what they gain on the first arm, with intervals."""
    lines = [
        "| Log | Weights | Headroom captured | more than unused | Regret | less than unused |",
        "|---|---|---|---|---|---|",
    ]
    for world, seeds in found.items():
        first = next(iter(seeds[0]))
        for arm in seeds[0]:
            captured, regret = ([getattr(one[arm], name) for one in seeds] for name in ("captured", "regret"))
            more = less = ""
            if arm != first:
                more = "{:+.3f} ({:+.3f} … {:+.3f})".format(*lead(captured, [one[first].captured for one in seeds]))
                less = "{:+.4f} ({:+.4f} … {:+.4f})".format(*lead([one[first].regret for one in seeds], regret))
            lines.append(f"| {world} | {arm} | {np.mean(captured):.3f} | {more} | {np.mean(regret):.4f} | {less} |")
    return "\n".join(lines)


def write(path: Path, text: str, seeds: int) -> None:
    """Puts the table into a page, in the place that is marked for it, and into the mark the command that makes it again."""
    page = path.read_text(encoding="utf-8")
    before, rest = _BEGIN.split(page, maxsplit=1)
    after = rest.partition(_END)[2]
    begin = f"<!-- {_COMMAND} --seeds {seeds} writes this -->"
    path.write_text(f"{before}{begin}\n\n{text}\n\n{_END}{after}", encoding="utf-8")


def main(
    page: Annotated[Path, typer.Option(help="The page that the table is written into.")] = Path("docs/logs.md"),
    cache: Annotated[Path, typer.Option(help="Where encoders are.")] = Path(".cache"),
    seeds: Annotated[int, typer.Option(min=2, help="Logs of each world.")] = SEEDS,
) -> None:
    """Learns on every seed and world, and writes the table: some fifteen minutes on two cores."""
    params = load_params(overrides=list(SPLIT))
    found = {
        name: [figures(world, ARMS, params, cache, seed) for seed in range(seeds)] for name, world in WORLDS.items()
    }
    write(page, f"Means of {seeds} seeds:\n\n{table(found)}", seeds)


if __name__ == "__main__":
    typer.run(main)
