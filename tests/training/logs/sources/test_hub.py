"""Public data by name, from a stand-in for the Hub on this machine; and pickles, of which only tables are read."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from training.cli.main import app
from training.logs.sources import reading
from training.logs.sources.public import hub
from training.logs.sources.public.hub import HubError

SHA = "784021482c3f320c6619ed4b3bb3b41a21424fcb"
REPOSITORY = "withmartian/routerbench"
WIDE = pd.DataFrame(
    {
        "sample_id": ["arc.1", "arc.2"], "prompt": ["['one']", "['two']"], "eval_name": ["arc", "arc"],
        "small": [0.0, 1.0], "large": [1.0, 1.0], "small|model_response": ["no", "yes"],
        "small|total_cost": [0.001, 0.002], "large|total_cost": [0.01, 0.02], "oracle_model_to_route_to": ["large", "small"],
    }
)  # fmt: skip


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes], list[str]]]:
    """The files that the stand-in has, by name, and the paths that it was asked for."""
    content: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            listing = f"/api/datasets/{REPOSITORY}/revision/"
            name = self.path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{SHA}/")
            headers = {"X-Repo-Commit": SHA}
            if self.path in (f"{listing}main", f"{listing}v1"):
                siblings = [{"rfilename": file} for file in content]
                data = json.dumps({"id": REPOSITORY, "sha": SHA, "siblings": siblings, "private": False}).encode()
            elif name in content:
                data = content[name]
                headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            else:
                data, headers["X-Error-Code"] = b"{}", "RepoNotFound"
            self.send_response(404 if "X-Error-Code" in headers else 200)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    yield content, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_routerbench_by_name_is_its_first_table_at_a_commit(
    served: tuple[dict[str, bytes], list[str]], tmp_path: Path
) -> None:
    content, asked = served
    content |= {"routerbench_0shot.pkl": pickle.dumps(WIDE), "routerbench_5shot.pkl": b"large", "README.md": b"#"}
    with pytest.raises(HubError, match="--allow-pickle"):
        hub.fetch(f"hf:{REPOSITORY}", cache=tmp_path / "cache")
    arguments = ["fetch", f"hf:{REPOSITORY}", "--allow-pickle", "--cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    first, path = done.stdout.split()
    assert first == f"hf:{REPOSITORY}@{SHA}"
    table = reading.read([Path(path)])
    assert table.formats == ("routerbench",)
    assert table.frame["candidate"].tolist() == ["small", "large"] * 2
    assert table.frame["quality"].tolist() == [0, 1, 1, 1]
    assert table.frame["cost_usd"].sum() == pytest.approx(0.033)
    assert not any("5shot" in one for one in asked)
    downloads = [one for one in asked if one.startswith("GET") and "resolve" in one]
    assert hub.fetch(f"hf:{REPOSITORY}", cache=tmp_path / "cache", allow_pickle=True).paths == (Path(path),)
    assert [one for one in asked if one.startswith("GET") and "resolve" in one] == downloads  # it is here already


def test_a_revision_and_a_pattern_choose_the_files(served: tuple[dict[str, bytes], list[str]], tmp_path: Path) -> None:
    content, asked = served
    log = b'{"request_id": "1", "prompt": "p", "candidate": "a"}\n'
    content |= {"logs/a.jsonl": log, "logs/b.jsonl": log, "other.csv": b"x\n1\n", "c.pkl": b""}
    found = hub.fetch(f"hf:{REPOSITORY}@v1/logs/*", cache=tmp_path / "cache")
    assert found.revision == SHA
    assert [path.name for path in found.paths] == ["a.jsonl", "b.jsonl"]
    assert f"GET /api/datasets/{REPOSITORY}/revision/v1" in asked
    assert len(reading.read(found.paths).frame) == 1


@pytest.mark.usefixtures("served")
def test_what_is_not_there_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"hf:nobody/nothing: not fetched .* HF_TOKEN"):
        hub.fetch("hf:nobody/nothing", cache=tmp_path)
    with pytest.raises(HubError, match="no file matches"):
        hub.fetch(f"hf:{REPOSITORY}/x.csv", cache=tmp_path)
    with pytest.raises(HubError, match="expected hf:owner/name"):
        hub.fetch("hf:routerbench", cache=tmp_path)
    assert hub.recognises_url("hf:a/b")
    assert not hub.recognises_url("hf/a/b.jsonl")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["str", "object"])
def test_a_pickled_table_reads_back(tmp_path: Path, protocol: int, dtype: str) -> None:
    table = WIDE.astype({"prompt": dtype}).assign(
        number=[1, 2],
        flag=[True, False],
        when=pd.to_datetime(["2026-01-01", "2026-01-02"]),
        kind=pd.Categorical(["x", "y"]),
    )
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps(table, protocol=protocol))
    pd.testing.assert_frame_equal(hub.read_pickle(path), table)


class Reduced:
    """Pickles as a call of anything with any arguments."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.made = call, arguments

    def __reduce__(self) -> Any:
        return self.made


def test_a_pickle_that_is_a_program_is_refused_and_does_not_run(tmp_path: Path) -> None:
    import builtins
    import os
    import subprocess

    mark = tmp_path / "it ran"
    code = f"open({str(mark)!r}, 'w')"
    programs = [
        Reduced(os.system, f"touch '{mark}'"),
        Reduced(subprocess.run, ["touch", str(mark)]),
        Reduced(builtins.exec, code),
        Reduced(builtins.getattr, "", "join"),
        Reduced(pd.eval, "1 + 1"),
        Reduced(pd.read_pickle, str(tmp_path / "other.pkl")),
        Reduced(np.save, str(mark), 1),
        pd.DataFrame({"cell": [Reduced(builtins.exec, code)]}),
        pd.DataFrame({"cell": [dt.date(2026, 1, 1)]}),
    ]
    for number, program in enumerate(programs):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(program))
        with pytest.raises(HubError, match="refused: the pickle asks for"):
            hub.read_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(("content", "message"), [(b"", "not a readable"), (pickle.dumps([1]), "got list")])
def test_a_pickle_without_a_table_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(HubError, match=message):
        hub.read_pickle(path)
