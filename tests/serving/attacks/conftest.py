"""What attacks share: real `router-serve` processes on the bundle that nobody trained, their memory, and their stalls.

    def test_it_holds(attacked: Attack) -> None:
        service = attacked(store_queue=100, rules='[keys.bot]\nsha256 = "…"\n')
        with service.ticking() as stall:
            service.post("/v1/route", {"prompt": "hello"})
        assert stall.worst < 0.05

`running` is the same for a fixture of a module's own, where several tests may share one process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from benchmarks.serving.watch import Stall, resident_mib, ticking
from serving.state.rulebook import digest_of
from tests import fake_bundle
from tests.patience import PATIENCE, reserved_port, until
from tests.processes import serve

ROOT = Path(__file__).parents[3]
# Drift would warn of what attacks send, and that is not what they are about.
_NEVER = dict.fromkeys(("ROUTER_DRIFT_PROMPTS", "ROUTER_DRIFT_FEEDBACK"), "1000000000")


@dataclass(frozen=True)
class Attacked:
    """A `router-serve` that runs: `store` is its SQLite file (or URL), `log` what it has written to standard error."""

    client: httpx.Client
    process: BaseProcess
    store: Path | str
    log: Path
    url: str

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def post(self, path: str, body: object, key: str | None = None) -> httpx.Response:
        """POST of bytes as they are, or of anything else as JSON; `key` is an API key's text."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.client.post(path, headers=bearer(key), **content)  # type: ignore[arg-type]

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        return self.client.get(path, headers=bearer(key))

    def route(self, key: str | None = None, **body: Any) -> dict[str, Any]:
        """The decision on a body; fails where there is none."""
        answer = self.post("/v1/route", body, key)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def memory(self) -> int:
        """Bytes of the process in memory; where there are workers, with theirs."""
        return int(2**20 * sum(map(resident_mib, (self.pid, *_children(self.pid)))))

    @contextmanager
    def ticking(self) -> Iterator[Stall]:
        """Asks for /healthz on a connection of its own while the block runs."""
        port = self.client.base_url.port
        assert port is not None
        with ticking(port, self.pid) as stall:
            yield stall


class Attack(Protocol):
    """Starts a service; what is not a setting: `rules` is the text of its rule file, `environment` is set beside the options.

    Its store is `decisions.db` of the test's folder, so that several of one test share it, unless `store` says another.
    """

    def __call__(
        self, *, rules: str = "", environment: Mapping[str, str] | None = None, **settings: object
    ) -> Attacked: ...


def bearer(key: str | None) -> dict[str, str]:
    """The headers of a caller with this API key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def key_rules(name: str, secret: str, more: str = "") -> str:
    """The rule file's section of an API key with this text; `more` are lines of it."""
    return f'[keys.{name}]\nsha256 = "{digest_of(secret)}"\n{more}\n'


@contextmanager
def running(
    bundle: Path,
    folder: Path,
    *,
    rules: str = "",
    environment: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[Attacked]:
    """`router-serve` in a process of its own, ready, and killed at the end if it still runs; its files are in `folder`."""
    given: dict[str, object] = {"bundle": bundle, "store": folder / "decisions.db", **settings}
    number = sum(1 for _ in folder.glob("log-*"))
    log = folder / f"log-{number}"
    if rules:
        given["policies"] = folder / f"policies-{number}.toml"
        Path(str(given["policies"])).write_text(rules, encoding="utf-8")
    with reserved_port() as port:
        options = [_option(name, value) for name, value in {**given, "port": port}.items()]
        surroundings = {**os.environ, **_NEVER, "TMPDIR": str(folder), **(environment or {})}
        process = serve(options, log, surroundings, ROOT)
        assert process.pid is not None
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                until(lambda: _ready(client) or not process.is_alive(), "ready")
                assert process.is_alive(), log.read_text()
                store = given["store"]
                yield Attacked(client, process, store if isinstance(store, Path) else str(store), log, url)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers as well
            process.join(PATIENCE)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that nobody trained, `tests/fake_bundle.py`."""
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def attacked(bundle: Path, tmp_path: Path) -> Iterator[Attack]:
    """Starts as many services as a test asks for; they end with it."""
    with ExitStack() as open_ones:

        def start(*, rules: str = "", environment: Mapping[str, str] | None = None, **settings: object) -> Attacked:
            given = {"bundle": bundle, **settings}
            source = Path(str(given.pop("bundle")))
            service = running(source, tmp_path, rules=rules, environment=environment, **given)
            return open_ones.enter_context(service)

        yield start


def _option(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value}"


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(one) for one in listed.read_text(encoding="ascii").split()] if listed.exists() else []
