"""A server and its load: `router-serve` as a process, prompts of a given length, and wrk to send them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from training.config import load_params
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

# Sends the bodies of a file in turn. "@@" in one becomes a number that never comes again, so that no cache knows the prompt.
_LUA = """
local bodies, at, sent = {}, 0, 0
function init(args)
  for line in io.lines(args[1]) do bodies[#bodies + 1] = line end
  wrk.method, wrk.headers["content-type"] = "POST", "application/json"
  math.randomseed(os.time())
  sent = math.random(1000000) * 1000
end
function request()
  at = at % #bodies + 1
  sent = sent + 1
  return wrk.format(nil, nil, nil, (bodies[at]:gsub("@@", tostring(sent))))
end
function done(summary, latency, requests)
  io.write(string.format('\\nFIGURES {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "errors": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


class LoadError(RuntimeError):
    """Load that could not be made; the message says why and what to do."""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests per second, latency percentiles in milliseconds, and how many requests had no 2xx."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def prompts(tokenizer: Path, tokens: int, count: int, seed: int = 0) -> list[str]:
    """`count` texts of `tokens` tokens each, cut from simulated prompts laid end to end."""
    params = load_params().simulate
    catalogue = load_catalogue(SHIPPED)
    log = simulate([catalogue[name] for name in params.candidates], requests=300, seed=seed)
    texts = [text for text in log.outcomes["prompt"].dropna().unique() if text]
    encoding = Tokenizer.from_file(str(tokenizer)).encode("\n".join(texts), add_special_tokens=False)
    whole, offsets = "\n".join(texts), encoding.offsets
    draw = random.Random(seed)
    starts = [draw.randrange(len(offsets) - tokens) for _ in range(count)]
    return [whole[offsets[start][0] : offsets[start + tokens - 1][1]] for start in starts]


def bodies(
    texts: Sequence[str], *, distinct: bool, batch: int = 0, fields: Mapping[str, object] | None = None
) -> list[str]:
    """Request bodies of these texts; `distinct` puts the mark into each that the load makes a new number of.

    With `batch`, each body is a batch of so many requests. `fields` stand in each request beside its prompt.
    """
    requests = [{"prompt": f"@@ {text}" if distinct else text, **(fields or {})} for text in texts]
    if not batch:
        return [json.dumps(one) for one in requests]
    return [json.dumps({"requests": requests[at : at + batch]}) for at in range(0, len(requests) - batch + 1, batch)]


def wrk(url: str, sent: Sequence[str], folder: Path, *, connections: int, seconds: float) -> Load:
    """Sends the bodies in turn, over and over, with one thread; raises LoadError where wrk is absent or fails."""
    program = shutil.which("wrk")
    if program is None:
        raise LoadError("wrk is not installed; it makes the load: apt-get install wrk (or brew install wrk)")
    script, lines = folder / "load.lua", folder / "bodies.jsonl"
    script.write_text(_LUA, encoding="utf-8")
    lines.write_text("\n".join(sent) + "\n", encoding="utf-8")
    command = [program, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script), url]
    finished = subprocess.run([*command, "--", str(lines)], capture_output=True, text=True, check=False)
    line = next((line for line in finished.stdout.splitlines() if line.startswith("FIGURES ")), None)
    if line is None:
        raise LoadError(f"wrk gave no figures: {(finished.stderr or finished.stdout).strip()[-500:]}")
    found = json.loads(line.removeprefix("FIGURES "))
    return Load(found["requests"] / found["seconds"], found["p50_ms"], found["p99_ms"], found["errors"])


def serve(folder: Path, port: int, store: Path) -> list[str]:
    """`router-serve`, as arguments to Python."""
    options = ["--bundle", str(folder), "--port", str(port), "--store", str(store), "--log-level", "error"]
    return ["-c", "from serving.cli import main; main()", *options]


def environment() -> dict[str, str]:
    """Serving's own settings are the defaults, but for a wait that no embedding exceeds: each decision is to be made."""
    return {**os.environ, "ROUTER_EMBED_WAIT_MS": "10000"}


@contextmanager
def process(arguments: Sequence[str], ready: str, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Runs Python with these arguments until the block ends, once GET `ready` answers; gives its process id."""
    started = start(arguments, ready, environment)
    try:
        yield started.pid
    finally:
        started.terminate()
        started.wait(30)


def start(
    arguments: Sequence[str], ready: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """As `process`, for the caller to end; raises LoadError if it is not there within 60 s."""
    running = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        if answers(ready):
            return running
        time.sleep(0.1)
    running.kill()
    raise LoadError(f"{' '.join(arguments)} does not answer at {ready}; run it by hand to see why")


def answers(url: str) -> bool:
    """Whether GET gives a 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def post(url: str, body: str) -> bytes:
    """The answer to one body; raises LoadError."""
    request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: bytes = response.read()
            return answer
    except (urllib.error.URLError, OSError) as error:
        raise LoadError(f"POST {url}: {error}") from error
