"""Types the whole way from a bare log to a certified router, and keeps the terminal in docs/evidence.md.

`python -m docs.evidence` writes it; a test types all of it again and compares. Log and answers are simulated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.simulated.provider import Faults, Provider, serving
from docs.first_hour import ROOT, build_wheel, install, one_way
from training.config import load_params
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import SimulatedLog, simulate

PAGE = ROOT / "docs" / "evidence.md"
ADDRESS = "http://localhost:4000/v1"
REQUESTS = 3_000
LOG = "gateway.jsonl"
NEW = "gemini-3.8-flash"  # what comes out later
_CHECK = "--check 'regex:^Here'"
WAYS: Mapping[str, Sequence[str]] = {
    "look": (f"router-train inspect --data {LOG}",),
    "train": (f"router-train run --data {LOG} --no-track",),
    "plan": (f"router-train plan --data {LOG} --budget-usd 5",),
    "replay": (
        f"router-train replay --plan plan.jsonl --out replayed --base-url {ADDRESS} --dry-run",
        f"router-train replay --plan plan.jsonl --out replayed --base-url {ADDRESS} {_CHECK}",
    ),
    "again": (f"router-train run --data {LOG} --data replayed --no-track",),
    "new": (
        f"router-train add-candidate {NEW} --data {LOG} --data replayed --no-track",
        f"router-train replay --plan probes.jsonl --out probed --base-url {ADDRESS} {_CHECK}",
        f"router-train add-candidate {NEW} --data {LOG} --data replayed --data probed --no-track",
    ),
}
FAULTS = Faults(refused=37, failing=101, garbage=211)


@dataclass(frozen=True)
class Typed:
    """What the terminal shows, and what the stand-in was asked for and billed."""

    terminals: Mapping[str, str]
    billed_usd: float
    answers: int


def simulated_log() -> SimulatedLog:
    """What a gateway without shadow requests has, with feedback on 5% of the answers; of all candidates but the new one."""
    catalogue, params = load_catalogue(SHIPPED), load_params()
    candidates = [catalogue[name] for name in params.simulate.candidates]
    return simulate(candidates, requests=REQUESTS, seed=1, shadow_share=0.0, judged_share=0.05)


def write_log(path: Path, log: SimulatedLog) -> None:
    rows = log.outcomes[log.outcomes["candidate"] != NEW]
    rows.to_json(path, orient="records", lines=True, date_format="iso")


def typed_all(site: Path, encoders: Path) -> Typed:
    """Types all of it, with what is installed in `site`."""
    log = simulated_log()
    with serving(Provider(log, load_catalogue(SHIPPED), FAULTS)) as provider:
        commands = [command for way in WAYS.values() for command in way]
        terminal = one_way(site, LOG, lambda path: write_log(path, log), commands, encoders, {ADDRESS: provider.url})
    found, rest = {}, terminal
    for name, (way, following) in zip(
        WAYS, zip(WAYS.values(), [*list(WAYS.values())[1:], ()], strict=True), strict=True
    ):
        end = rest.index(f"$ {following[0]}") if following else len(rest)
        assert rest.startswith(f"$ {way[0]}")
        found[name], rest = rest[:end].rstrip(), rest[end:]
    return Typed(found, provider.billed_usd, len(provider.bill))


def page(terminals: Mapping[str, str]) -> str:
    """docs/evidence.md."""
    shown = {name: f"```console\n{terminal}\n```" for name, terminal in terminals.items()}
    return Template(PAGE.with_suffix(".md.in").read_text(encoding="utf-8")).substitute(shown)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = install(build_wheel(Path(folder)), Path(folder) / "site")
        found = typed_all(site, ROOT / ".cache" / "encoders")
    PAGE.write_text(page(found.terminals), encoding="utf-8")


if __name__ == "__main__":
    main()
