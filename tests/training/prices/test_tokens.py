"""Input tokens: counts by hand, estimates where counting is not possible, and never a download."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.catalogue import Candidate
from serving.bundle.request import RouteRequest
from training.dataset.matrix import build_matrix
from training.logs.validate import validate
from training.prices import tokens
from training.prices.costs import fill_costs
from training.prices.price_map import litellm_folder

O200K, CL100K = Candidate(name="gpt-4o"), Candidate(name="azure/gpt-4-0613")
UNKNOWN = Candidate(name="claude-opus-5-5")
FILE_OF_O200K = "fb374d419588a4632f3f557e76b4b70aebbca790"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    test = threading.get_ident()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def refuse(real: Any) -> Any:
        def called(*given: Any, **options: Any) -> Any:
            assert threading.get_ident() != test, "a connection was tried"
            return real(*given, **options)  # what another test left running is not this one's to break

        return called

    monkeypatch.setattr(socket.socket, "connect", refuse(connect))
    monkeypatch.setattr(socket, "getaddrinfo", refuse(look_up))


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken as a new process finds it."""
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})


def shipped() -> Path:
    package = litellm_folder()
    assert package is not None
    return package / "litellm_core_utils" / "tokenizers"


def one(request: RouteRequest, candidate: Candidate) -> tuple[float, bool]:
    found, counted = tokens.input_tokens([request], [candidate], np.ones((1, 1), dtype=bool))
    return float(found[0, 0]), bool(counted[0, 0])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        # "hello" and each role are one token; three around every message, three before the answer.
        (RouteRequest(prompt="hello"), 3 + 1 + 1 + 3),
        (RouteRequest(prompt=""), 3 + 1 + 0 + 3),
        (
            RouteRequest(messages=[{"role": "system", "content": "hello"}, {"role": "user", "content": "hello hello"}]),
            (3 + 1 + 1) + (3 + 1 + 2) + 3,
        ),
        (RouteRequest(messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}]), 8),
        (RouteRequest(messages=[{"role": "user", "name": "hello", "content": "hello"}]), 8 + 1 + 1),
    ],
)
def test_a_count_is_that_of_the_chat_format(request_: RouteRequest, expected: int) -> None:
    assert one(request_, O200K) == (expected, True)
    assert one(request_, CL100K) == (expected, True)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "abcdefgh"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": "abcdefgh", "tool_calls": []},
        {"role": "tool", "content": "abcdefgh", "tool_call_id": "1"},
    ],
)
def test_what_is_not_text_alone_is_estimated(message: dict[str, Any]) -> None:
    assert one(RouteRequest(messages=[message]), O200K) == (2.0, False)


def test_an_estimate_goes_by_bytes() -> None:
    assert one(RouteRequest(prompt="x" * 400), UNKNOWN) == (100.0, False)
    assert one(RouteRequest(prompt="字" * 400), UNKNOWN) == (300.0, False)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (Candidate(name="gpt-4o"), "o200k_base"),
        (Candidate(name="azure/eu/gpt-4o-mini-2024-07-18"), "o200k_base"),
        (Candidate(name="gpt-4-1106-preview"), "cl100k_base"),
        (Candidate(name="prod-chat", aliases=("openai/gpt-4.1",)), "o200k_base"),
        (Candidate(name="openai/gpt-oss-120b"), "o200k_harmony"),
        (Candidate(name="claude-opus-5-5"), None),
        (Candidate(name="mistral/mistral-small-2603"), None),
    ],
)
def test_the_encoding_of_a_candidate(candidate: Candidate, expected: str | None) -> None:
    assert tokens.encoding_name(candidate) == expected


@pytest.mark.usefixtures("nothing_loaded")
def test_the_environment_s_folder_is_read_and_stays_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(shipped() / FILE_OF_O200K, tmp_path)
    monkeypatch.setattr(tokens, "litellm_folder", lambda: None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert tokens.load_encoding("o200k_base") is not None
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)
    assert tokens.load_encoding("cl100k_base") is None


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("content", [None, b"", b"IQ== 0\n"])
def test_an_absent_or_damaged_file_means_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / FILE_OF_O200K
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(tokens, "folders", lambda: (tmp_path,))
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    assert one(RouteRequest(prompt="x" * 8), O200K) == (2.0, False)
    assert file.exists() == (content is not None), "a damaged file is somebody else's to remove"
    assert os.environ.get("TIKTOKEN_CACHE_DIR") == before


def test_a_long_run_of_one_character_is_counted() -> None:
    count, counted = one(RouteRequest(prompt=" " * 1_000_000), O200K)
    assert counted
    assert 1_000 < count < 20_000


def test_only_what_is_wanted_is_looked_at() -> None:
    wanted = np.array([[True, False], [False, True]])
    found, counted = tokens.input_tokens([RouteRequest(prompt="hello")] * 2, [O200K, UNKNOWN], wanted)
    np.testing.assert_array_equal(found, [[8.0, np.nan], [np.nan, 1.25]])
    np.testing.assert_array_equal(counted, [[True, False], [False, False]])


@settings(deadline=None, max_examples=50)
@given(prompt=st.text(max_size=200))
def test_no_text_breaks_a_count(prompt: str) -> None:
    count, counted = one(RouteRequest(prompt=prompt), O200K)
    assert counted
    assert 7 <= count <= 7 + len(prompt.encode("utf-8", "replace"))


def test_costs_say_how_many_were_counted() -> None:
    rows = [
        {"request_id": "a", "prompt": "hello", "candidate": "gpt-4o", "output_tokens": 1},
        {"request_id": "b", "prompt": "hello", "candidate": "claude-opus-5-5", "output_tokens": 1},
        {"request_id": "c", "prompt": "hello", "candidate": "gpt-4o", "output_tokens": 1, "input_tokens": 50},
        {"request_id": "d", "prompt": "hello", "candidate": "gpt-4o", "output_tokens": 1, "cost_usd": 1.0},
    ]
    matrix = build_matrix(validate(pd.DataFrame(rows), source="test", format="test").frame)
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 0.0}
    catalogue = {name: Candidate(name=name, **price) for name in ("gpt-4o", "claude-opus-5-5")}
    filled, notes = fill_costs(matrix, catalogue, 250.0)
    assert np.nansum(filled.cost_usd, axis=1).tolist() == pytest.approx([8e-6, 1.25e-6, 50e-6, 1.0])
    assert (notes.priced, notes.counted_input_tokens, notes.estimated_input_tokens) == (3, 1, 1)
