"""A real proxy of LiteLLM's in its own environment and process, with our plug-in, keys of the tests' own and what it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import fake_bundle
from tests.conftest import ROOT
from tests.patience import PATIENCE, reserved_port, until
from tests.serving.integrations.litellm.upstreams import Upstreams

ENVIRONMENT = ROOT / ".venv-litellm"
MASTER_KEY = "sk-master"
EXISTING = "gpt-4o-prod"
GROUP = "outcome-router/auto"
ROWS = (fake_bundle.SMALL, fake_bundle.OPEN, fake_bundle.LARGE)
# What an upstream bills, USD a token: read and written.
PRICES = {fake_bundle.SMALL: (1e-7, 4e-7), fake_bundle.OPEN: (1e-6, 2e-6), fake_bundle.LARGE: (5e-6, 2e-5)}

needs_proxy = pytest.mark.skipif(
    not (ENVIRONMENT / "bin" / "litellm").exists(),
    reason="LiteLLM's proxy is not installed (make .venv-litellm/.ready, which make test asks for)",
)

_AUTH = '''"""Keys of the tests: what each may use stands in keys.json."""
import json
from pathlib import Path

from fastapi import HTTPException
from litellm.proxy._types import UserAPIKeyAuth

KEYS = Path(__file__).with_name("keys.json")


async def user_api_key_auth(request, api_key):
    keys = json.loads(KEYS.read_text())
    if api_key not in keys:
        raise HTTPException(401, "no such key")
    return UserAPIKeyAuth(**{"api_key": api_key, **keys[api_key]})
'''
_CAPTURE = '''"""Writes what LiteLLM logs of each call to calls.jsonl."""
import json
from pathlib import Path

from litellm.integrations.custom_logger import CustomLogger

CALLS = Path(__file__).with_name("calls.jsonl")


class Capture(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self._write(kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self._write(kwargs)

    def _write(self, kwargs):
        payload = kwargs["standard_logging_object"]
        with CALLS.open("a") as file:
            file.write(json.dumps(payload, default=str) + "\\n")


instance = Capture()
'''


@dataclass
class Proxy:
    """A running proxy, its folder, and who answers behind it."""

    url: str
    folder: Path
    upstreams: Upstreams
    process: subprocess.Popen[bytes]

    def ask(
        self, text: str = "hello", *, key: str = MASTER_KEY, model: str = GROUP, headers: Any = None, **body: Any
    ) -> httpx.Response:
        """One chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **body}
        return self.post("/v1/chat/completions", body, key=key, headers=headers)

    def post(self, path: str, body: Mapping[str, Any], *, key: str = MASTER_KEY, headers: Any = None) -> httpx.Response:
        """One request, without the client's own retries."""
        sent = {"Authorization": f"Bearer {key}", **(headers or {})}
        return httpx.post(f"{self.url}{path}", json=dict(body), headers=sent, timeout=PATIENCE)

    def keys(self, **keys: Mapping[str, Any]) -> None:
        """The keys that there are from now on, beside the master's."""
        (self.folder / "keys.json").write_text(json.dumps({MASTER_KEY: {"user_role": "proxy_admin"}, **keys}))

    def calls(self) -> list[dict[str, Any]]:
        """What LiteLLM has logged."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def record(self, decision_id: str) -> dict[str, Any]:
        """What LiteLLM logged of a decision, waited for."""
        found: list[dict[str, Any]] = []

        def logged() -> bool:
            records = ((one["metadata"].get("spend_logs_metadata") or {}).get("outcome_router") for one in self.calls())
            found[:] = [one for one in records if one and one["decision_id"] == decision_id]
            return bool(found)

        until(logged, f"the decision {decision_id} in LiteLLM's log")
        return found[-1]

    def metrics(self) -> str:
        return httpx.get(
            f"{self.url}/metrics/", headers={"Authorization": f"Bearer {MASTER_KEY}"}, timeout=PATIENCE
        ).text


def configuration(upstreams: Upstreams, **router_settings: Any) -> dict[str, Any]:
    """The example's configuration, with the fake bundle's candidates and the fake upstreams in it."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "litellm" / "config.yaml").read_text())
    rows, prices = found["model_list"], list(PRICES.values())
    assert [row["model_name"] for row in rows[:3]] == [GROUP] * 3
    for row, name, (read, written) in zip(rows, (*ROWS, EXISTING), (*prices, prices[-1]), strict=True):
        row["litellm_params"] = {
            "model": f"openai/{name.replace('/', '-')}",
            "api_base": upstreams[name].url,
            "api_key": "none",
            "input_cost_per_token": read,
            "output_cost_per_token": written,
        }
        if row["model_name"] == GROUP:
            row["model_info"]["id"] = name
    rows[3]["model_name"] = EXISTING
    found["litellm_settings"]["callbacks"].append("capture.instance")
    found["router_settings"] |= {"disable_cooldowns": True, "retry_after": 0, **router_settings}
    found["general_settings"] = {"master_key": MASTER_KEY, "custom_auth": "custom_auth.user_api_key_auth"}
    return found


@contextmanager
def running(folder: Path, config: Mapping[str, Any], upstreams: Upstreams, **environment: str) -> Iterator[Proxy]:
    """Starts a proxy with this configuration and these ROUTER_* settings, and stops it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "custom_auth.py").write_text(_AUTH)
    (folder / "capture.py").write_text(_CAPTURE)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    with reserved_port() as port:
        pass
    settled = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LITELLM_OFFLINE_MODE": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **environment,
    }
    log = folder / "proxy.log"
    command = [
        str(ENVIRONMENT / "bin" / "litellm"),
        "--config",
        "config.yaml",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, cwd=folder, env=settled, stdout=written, stderr=written, start_new_session=True
        )
    proxy = Proxy(f"http://127.0.0.1:{port}", folder, upstreams, process)
    proxy.keys()
    try:
        until(lambda: _alive(proxy), f"the proxy is up; its log: {log}")
        yield proxy
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _alive(proxy: Proxy) -> bool:
    if proxy.process.poll() is not None:
        raise RuntimeError(f"the proxy ended: {(proxy.folder / 'proxy.log').read_text()[-4000:]}")
    try:
        return httpx.get(f"{proxy.url}/health/liveliness", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
