"""Measures LiteLLM's proxy with the plug-in, and writes docs/bench-serve.json and its section of docs/benchmarks.md.

It needs LiteLLM's own environment, which `make .venv-litellm` makes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.gateway.added import added
from benchmarks.gateway.kill import kept_through_kill
from benchmarks.gateway.loop import close_loop
from benchmarks.routing.report import SERVE
from benchmarks.serving.run import bundle, save
from serving.bundle.manifest import open_bundle

_console = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Where the figures and the report go.")] = Path("docs"),
    cache: Annotated[Path, typer.Option(help="Where the bundle that decides is kept.")] = Path(".cache/bench-serve"),
    requests: Annotated[int, typer.Option(help="Requests in each mode, with a kill after half; 0: none.")] = 5_000,
    calls: Annotated[int, typer.Option(help="Calls of each proxy whose latency is measured; 0: none.")] = 1_000,
    loop: Annotated[bool, typer.Option(help="Close the loop on simulated candidates.")] = True,
    seeds: Annotated[int, typer.Option(min=1, help="How often the loop is closed, each time on logs of its own.")] = 1,
) -> None:
    """Measure the plug-in in LiteLLM's proxy."""
    path = out / SERVE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    gateway: dict[str, Any] = found.setdefault("gateway", {})
    decides = bundle("static", cache)
    candidates = list(open_bundle(decides).manifest.candidates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if calls:
            _console.print("what it adds to a call")
            gateway["added"] = added(folder / "added", decides, candidates, requests=calls)
            save(out, found)
        if requests:
            gateway["kill"] = []
            for over_http in (False, True):
                _console.print(f"a kill among {requests:,} requests, {'over HTTP' if over_http else 'in process'}")
                place = folder / f"kill-{over_http}"
                gateway["kill"].append(
                    kept_through_kill(place, decides, candidates, requests=requests, over_http=over_http)
                )
                save(out, found)
        if loop:
            _console.print("the loop")
            closed = [close_loop(folder / f"loop-{seed}", cache.parent, seed=3 * seed) for seed in range(seeds)]
            gateway["loop"] = {**closed[0], "gains": [one["gain"] for one in closed]}
            save(out, found)


if __name__ == "__main__":
    app()
