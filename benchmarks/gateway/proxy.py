"""A real LiteLLM proxy as a process, in an environment of its own, with the plug-in or without it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.load import LoadError, answers, process
from serving.bundle.catalogue import Candidate

ROOT = Path(__file__).resolve().parents[2]
# LiteLLM forces older versions of what serving needs, so its proxy has an environment beside it: `make litellm` makes it.
ENVIRONMENT = ROOT / ".venv-litellm"
GROUP, PLAIN = "outcome-router/auto", "plain"
KEY = "sk-benchmark"
_READY_SECONDS = 90.0
# Appends what LiteLLM itself says that a call cost, for whoever compares.
_COSTS = """
import json, os
from litellm.integrations.custom_logger import CustomLogger

class Costs(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        said = kwargs["standard_logging_object"]
        left = ((said["metadata"] or {}).get("spend_logs_metadata") or {}).get("outcome_router") or {}
        with open(os.environ["COSTS_FILE"], "a") as file:
            line = {"id": left.get("decision_id"), "cost_usd": said["response_cost"], "candidate": said["model_id"]}
            file.write(json.dumps(line) + "\\n")

costs = Costs()
"""
# Appends how long each hook of the plug-in took, in milliseconds: by the clock, and of its thread's processor time.
_TIMES = """
import functools, json, os, time
from litellm.integrations.custom_logger import CustomLogger
from serving.integrations.litellm.plugin import OutcomeRouter

def timed(name, hook):
    @functools.wraps(hook)
    async def wrapped(*given, **named):
        began, busy = time.perf_counter(), time.thread_time()
        try:
            return await hook(*given, **named)
        finally:
            line = [name, 1e3 * (time.perf_counter() - began), 1e3 * (time.thread_time() - busy)]
            taken.write(json.dumps(line) + "\\n")
    return wrapped

taken = open(os.environ["COSTS_FILE"] + ".times", "a", buffering=1)
for name in HOOKS:
    setattr(OutcomeRouter, name, timed(name, OutcomeRouter.__dict__[name]))
times = CustomLogger()
"""
IN_THE_WAY = (
    "async_pre_call_hook",
    "async_filter_deployments",
    "async_post_call_success_hook",
    "async_post_call_response_headers_hook",
)


def usable() -> bool:
    """Whether there is an environment with LiteLLM's proxy."""
    return (ENVIRONMENT / "bin" / "litellm").exists()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def upstream(folder: Path, candidates: Sequence[Candidate]) -> Iterator[str]:
    """The fake LLMs of these candidates, as a process; gives their address."""
    port, prices = free_port(), folder / "prices.json"
    listed = {one.name: (one.input_usd_per_mtok or 0.0, one.output_usd_per_mtok or 0.0) for one in candidates}
    prices.write_text(json.dumps(listed), encoding="utf-8")
    address = f"http://127.0.0.1:{port}"
    with process(["-m", "benchmarks.gateway.upstream", str(port), str(prices)], f"{address}/"):
        yield address


@dataclass
class Proxy:
    """A proxy in `folder` for these candidates at an upstream's address; `variables` are the plug-in's settings.

    With `routed`, the plug-in is among its callbacks. The group GROUP has a row for each candidate, and PLAIN the first
    one's alone.
    """

    folder: Path
    candidates: Sequence[Candidate]
    upstream: str
    variables: Mapping[str, str] = field(default_factory=dict)
    routed: bool = True
    costs: bool = False
    times: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {KEY}"}

    def start(self) -> None:
        """Starts it and waits until it answers; raises LoadError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.yaml"
        config.write_text(json.dumps(self._config()), encoding="utf-8")  # JSON is YAML
        if self.costs:
            (self.folder / "costs.py").write_text(_COSTS, encoding="utf-8")
        if self.times:
            (self.folder / "times.py").write_text(_TIMES.replace("HOOKS", repr(IN_THE_WAY)), encoding="utf-8")
        command = [str(ENVIRONMENT / "bin" / "litellm"), "--config", str(config), "--port", str(self.port)]
        with (self.folder / "proxy.log").open("ab") as log:
            self.running = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until and self.running.poll() is None:
            if answers(f"{self.url}/health/liveliness"):
                return
            time.sleep(0.1)
        self.end(signal.SIGKILL)
        raise LoadError(f"LiteLLM's proxy does not answer; its log is {self.folder / 'proxy.log'}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, with all its processes."""
        if self.running is not None:
            os.killpg(self.running.pid, how)
            try:
                self.running.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.running.pid, signal.SIGKILL)
                self.running.wait(30)
            self.running = None

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _config(self) -> dict[str, Any]:
        rows = [self._row(GROUP, one, one.name) for one in self.candidates]
        rows.append(self._row(PLAIN, self.candidates[0], "plain-row"))
        callbacks = [
            *["costs.costs"] * self.costs,
            *["times.times"] * self.times,
            *["serving.integrations.litellm.router"] * self.routed,
        ]
        return {
            "model_list": rows,
            "router_settings": {"num_retries": len(self.candidates), "retry_after": 0, "disable_cooldowns": True},
            "litellm_settings": {"callbacks": callbacks, **self.settings},
            "general_settings": {"master_key": KEY},
        }

    def _row(self, group: str, candidate: Candidate, identifier: str) -> dict[str, Any]:
        return {
            "model_name": group,
            "litellm_params": {
                "model": f"openai/{candidate.name}",
                "api_base": f"{self.upstream}/v1",
                "api_key": "none",
                "input_cost_per_token": (candidate.input_usd_per_mtok or 0.0) / 1e6,
                "output_cost_per_token": (candidate.output_usd_per_mtok or 0.0) / 1e6,
            },
            "model_info": {"id": identifier},
        }

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROUTER_", "LITELLM_"))}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "LITELLM_OFFLINE_MODE": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "COSTS_FILE": str(self.folder / "costs.jsonl"),
            **self.variables,
        }
