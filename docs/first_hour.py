"""Types what a new user types, in an empty folder with somebody else's log, and keeps the terminal in docs/first-hour.md.

`python -m docs.first_hour` writes it; a test types all of it again and compares. The logs are simulated: which LLM answered
well was drawn.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from textwrap import fill
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-hour.md"
BESIDE = ("pyproject.toml", "README.md", "LICENSE")
SERVE = "router-serve --bundle models/current"
_STARTED_S = 120.0
# What `run` tells of its stages where nobody watches: its seconds are others each time.
_STAGE = re.compile(r"^at +\d+\.\d s: .*\n", re.MULTILINE)

QUESTIONS = {
    "summarise": (
        "Summarise the {} report for the {} team in one line.",
        "Give the three main points of this {} note from {}.",
    ),
    "sql": ("Write SQL: monthly {} per {}.", "Which query counts {} by {} last year?"),
    "translate": ("Translate to French: the {} for {} is late.", "How do you say '{} of the {}' in Spanish?"),
    "proof": ("Prove that the sum of two odd {} is even, for {}.", "Show by induction that every {} has a {}."),
}
WORDS = (
    "train",
    "revenue",
    "invoice",
    "order",
    "customer",
    "ticket",
    "parcel",
    "budget",
    "meeting",
    "contract",
    "region",
)
# By LLM: what an answer costs in USD, and how often it is good: usually, and of SQL and proofs.
LLMS: Mapping[str, tuple[float, float, Mapping[str, float]]] = {
    "gpt-4o": (0.0110, 0.95, {"proof": 0.90}),
    "gpt-4o-mini": (0.0006, 0.93, {"sql": 0.75, "proof": 0.45}),
    "gpt-4.1-nano": (0.0002, 0.85, {"sql": 0.50, "proof": 0.20}),
}


_INTRODUCTION = """# The first hour

Two logs that are not ours, each from an empty folder to a recommendation, as the terminal shows it. A test types all of it
again with the built wheel. Both logs are simulated. What is installed first:

```sh
pip install torch==2.13.0 && pip install 'outcome_router-0.1.0-py3-none-any.whl[train]'
```

The first run on a machine distils the encoder, which takes a minute or two; later ones take it from `.cache`.
"""


def _asked(draw: random.Random, number: int) -> tuple[str, str]:
    topic = draw.choice(list(QUESTIONS))
    return topic, draw.choice(QUESTIONS[topic]).format(draw.choice(WORDS), draw.choice(WORDS)) + f" (no. {number})"


def _good(draw: random.Random, llm: str, topic: str) -> bool:
    _, usually, hard = LLMS[llm]
    return draw.random() < hard.get(topic, usually)


def write_harness(path: Path, questions: int = 500) -> None:
    """A table as an evaluation harness writes it: every question to every LLM, graded 1 to 5."""
    draw = random.Random(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["question", "llm", "grade", "usd"])
        for number in range(questions):
            topic, question = _asked(draw, number)
            for llm, (usd, _, _) in LLMS.items():
                grade = draw.choice((4, 5)) if _good(draw, llm, topic) else draw.choice((1, 2))
                table.writerow([question, llm, grade, round(usd * draw.uniform(0.7, 1.4), 6)])


def write_gateway(path: Path, requests: int = 2_000) -> None:
    """A gateway's own log: nested, one answer to each request, a thumb on 8% of them, and no costs."""
    draw = random.Random(2)
    with path.open("w", encoding="utf-8") as file:
        for number in range(requests):
            topic, question = _asked(draw, number)
            (llm,) = draw.choices(list(LLMS), (0.5, 0.3, 0.2))
            usage = {"in": len(question) // 4, "out": draw.randint(20, 300)}
            row = {
                "ts": f"2026-{1 + number // 700:02d}-{1 + number // 25 % 28:02d}T{number % 24:02d}:{number % 60:02d}:00Z",
                "req": {
                    "conversation": f"c{number}",
                    "feature": topic,
                    "body": {"model": llm, "messages": [{"role": "user", "content": question}]},
                },
                "res": {"status": 200, "ms": draw.randint(300, 4000), "usage": usage, "text": "..."},
            }
            if draw.random() < 0.08:
                row["user"] = {"thumb": "up" if _good(draw, llm, topic) else "down"}
            file.write(json.dumps(row) + "\n")


HARNESS = (
    "head -3 harness.csv",
    "router-train inspect --data harness.csv --write logs.toml",
    "cat logs.toml",
    "router-train run --logs logs.toml --no-track",
    "router-serve check --bundle models/current",
    SERVE,
    "curl -s localhost:8080/v1/route -H 'content-type: application/json' "
    """-d '{"prompt": "Translate to French: the order is late."}'""",
)
GATEWAY = (
    "head -1 gateway.jsonl",
    "router-train inspect --data gateway.jsonl --write logs.toml",
    "cat logs.toml",
    "router-train run --logs logs.toml --no-track",
    SERVE,
    "curl -s localhost:8080/v1/route -H 'content-type: application/json' "
    """-d '{"messages": [{"role": "user", "content": "Write SQL: monthly revenue per region."}], "workflow": "sql"}'""",
)
# What each of the two is about, how its log is made, and what is typed.
WAYS: Mapping[str, tuple[str, str, Callable[[Path], None], Sequence[str]]] = {
    "An evaluation harness's table": (
        "500 questions, each answered by three LLMs and graded from 1 to 5. `inspect --write` finds which column is which, "
        "and that the grades look like stars.",
        "harness.csv",
        write_harness,
        HARNESS,
    ),
    "A gateway's own log": (
        "2,000 requests in nested JSON, one answer to each, a thumb on 8% of them and no costs. Nested fields are found by "
        "their names and by what is in them, and prices in LiteLLM's map. So few thumbs certify nothing, and all traffic "
        "stays where it was: `inspect` and `run` end with what to buy for how much ([evidence](evidence.md)).",
        "gateway.jsonl",
        write_gateway,
        GATEWAY,
    ),
}


def build_wheel(folder: Path) -> Path:
    """The wheel, built without a network from a copy of the sources, so that the build leaves nothing beside them."""
    source = folder / "source"
    source.mkdir()
    for name in BESIDE:
        shutil.copy(ROOT / name, source)
    for name in ("serving", "training", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    command = [sys.executable, "-W", "ignore", "-c", build]
    finished = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return source / "dist" / finished.stdout.splitlines()[-1]


def install(wheel: Path, folder: Path) -> Path:
    """Installs the wheel into a folder of its own, what it depends on being there already."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def typed(
    site: Path, folder: Path, commands: Sequence[str], elsewhere: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Each command, run in `folder` by what is installed in `site`, with what the terminal shows of it, 100 columns wide.

    The service goes on running beside the commands that come after it, on a free port that looks like 8080. An address that is
    `elsewhere` really looks as it is typed.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": f"{site / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "HOME": str(folder),
        "COLUMNS": "100",
        "ROUTER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
    }
    shown, service = [], None
    real = {"localhost:8080": f"localhost:{port}", **(elsewhere or {})}
    try:
        for command in commands:
            if command == SERVE:
                service = subprocess.Popen(
                    command.split(), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                _await(port, service)
                shown.append((f"{command} &", ""))
                continue
            asked = command
            for looks, is_at in real.items():
                asked = asked.replace(looks, is_at)
            done = subprocess.run(
                asked, shell=True, cwd=folder, env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{command}: {done.stdout}")
            said = _STAGE.sub("", done.stdout)
            for looks, is_at in (elsewhere or {}).items():
                said = said.replace(is_at, looks)
            shown.append((command, said))
    finally:
        if service is not None:
            service.terminate()
            service.wait(60)
    return shown


def _await(port: int, service: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _STARTED_S
    while time.monotonic() < end and service.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"router-serve does not answer; exit code {service.poll()}")


def one_way(
    site: Path,
    log: str,
    write: Callable[[Path], None],
    commands: Sequence[str],
    encoders: Path,
    elsewhere: Mapping[str, str] | None = None,
) -> str:
    """The terminal of one way, from an empty folder on; `encoders` has the distilled encoder, if it was made.

    `elsewhere` as of `typed`.
    """
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        empty.mkdir()
        write(empty / log)
        (empty / ".cache").mkdir()
        encoders.mkdir(parents=True, exist_ok=True)
        (empty / ".cache" / "encoders").symlink_to(encoders.resolve())
        lines = [f"$ {command}\n{said.rstrip()}".rstrip() for command, said in typed(site, empty, commands, elsewhere)]
        text = re.sub(r" +$", "", "\n\n".join(lines), flags=re.MULTILINE)
        return text.replace(str(empty), "/home/you").replace(folder, "/home")


def page(terminals: Mapping[str, str]) -> str:
    """docs/first-hour.md."""
    parts = [_INTRODUCTION]
    parts += [
        f"\n## {name}\n\n{fill(WAYS[name][0], 118)}\n\n```console\n{terminal}\n```\n"
        for name, terminal in terminals.items()
    ]
    return "".join(parts)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = install(build_wheel(Path(folder)), Path(folder) / "site")
        encoders = ROOT / ".cache" / "encoders"
        found = {
            name: one_way(site, log, write, commands, encoders) for name, (_, log, write, commands) in WAYS.items()
        }
    PAGE.write_text(page(found), encoding="utf-8")


def without_figures(text: str) -> str:
    """The text without what another machine or day has otherwise: figures, versions, and how wide a column is for them."""
    text = re.sub(r"\d{8}T\d+-[0-9a-f]{8}|[0-9a-f]{16,}", "VERSION", text)
    return re.sub(r"[\s─━]+", " ", re.sub(r"[-+]?\d[\d,.:]*(e-?\d+)?", "#", text))


if __name__ == "__main__":
    main()
