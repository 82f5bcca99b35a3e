"""The command that adds a candidate to the champion: it plans what to ask it, or, once that is answered, makes the bundle."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from training.cli import show
from training.cli.options import MODELS, LogOptions, ModelsOption, Settings, grouped, load_prices
from training.cli.show import say

app = typer.Typer()
_REPLAYED = "probed"


@app.command("add-candidate")
@grouped
def add_candidate(
    log: LogOptions,
    settings: Settings,
    name: Annotated[str, typer.Argument(help="The new candidate, by its name in the catalogue.")],
    probes: Annotated[int, typer.Option(help="How many logged requests it is to answer, from 50 to 200.")] = 100,
    budget_usd: Annotated[float, typer.Option(help="What its answers may cost, as expected, in USD.")] = 3.0,
    plan: Annotated[Path, typer.Option(help="The file of what to ask it, for `replay`.")] = Path("probes.jsonl"),
    out: ModelsOption = MODELS,
    track: Annotated[bool, typer.Option(help="Register the bundle with MLflow.")] = True,
    promote: Annotated[
        bool, typer.Option(help="Make it current if it is not worse; --no-promote only writes the bundle.")
    ] = True,
) -> None:
    """Add a candidate without a history to the current bundle, from its answers to 50 to 200 logged requests.

    Without such answers it writes a plan of which requests to put to it, and sends nothing.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from training.cli.reading import priced, read
    from training.extend.extend import add, ask, sentence
    from training.extend.log import LEAST
    from training.extend.plan import plan_of
    from training.logs.outcomes import OutcomeError
    from training.replay.pairs import require_free, write_plan

    if not log.given:
        raise OutcomeError("give the log that its requests are taken from: --data or --logs")
    require_free(plan)
    params, prices = settings.load(), load_prices(log.catalogue)
    with show.progress() as tell:
        found, prices = priced(read(log, prices, params.judge, tell), prices)
        asked = ask(found.outcomes, name, params, prices, out=out, cache=log.cache, progress=tell)
    show.print_log(found.outcomes, found.quality, found.masked)
    if asked.judged < LEAST:
        made = plan_of(asked, params, count=probes, budget_usd=budget_usd, seed=params.fit.seed)
        write_plan(plan, made)
        usd = sum(pair.expected_usd for pair in made.pairs)
        again = replace(log, data=(*log.data, _REPLAYED))
        say(
            f"{asked.judged} answers of {name} are judged, and {LEAST} are needed. {plan} has {len(made.pairs)} requests for "
            f"it, expected to cost {usd:.4f} USD. Nothing was sent. Next:"
        )
        say(f"  router-train replay --plan {plan} --out {_REPLAYED}")
        say(f"  {shlex.join(['router-train', 'add-candidate', name, *again.words(), '--out', str(out)])}")
        return
    with show.progress() as tell:
        made_bundle = add(asked, params, promote=promote, progress=tell)
        manifest, promotion = made_bundle.bundle.manifest, made_bundle.promotion
        model = ""
        if track:
            tell("track", None, None)
            from training.publish.tracking import track as log_run

            tags = {
                "data_fingerprint": manifest.data_fingerprint,
                "simulated": str(manifest.simulated).lower(),
                "promoted": str(promotion.promoted).lower(),
                "promotion": promotion.reason,
                "added": name,
            }
            tracked = log_run(
                params.tracking, made_bundle.bundle.folder, params.flat(), {}, tags, promoted=promotion.promoted
            )
            model = f" · MLflow model {params.tracking.model} version {tracked.model_version} ({tracked.alias})"
    say(
        f"{name} was added to {made_bundle.champion.version} by {made_bundle.probes:,} judged answers; certified on "
        f"{made_bundle.fresh:,} requests that its heads never saw. The reference stays {manifest.reference}."
    )
    for point in manifest.operating_points:
        say(sentence(point, manifest))
    show.print_promotion(promotion, manifest.version, out)
    say(f"bundle {made_bundle.bundle.folder}{model}")
