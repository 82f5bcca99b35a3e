"""Surface features: counts worked out by hand."""

from __future__ import annotations

from math import log1p

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.catalogue import Capability
from serving.bundle.features import SURFACE, feature_matrix, surface_features
from serving.bundle.request import RouteRequest, read, text_of


def features(request: RouteRequest) -> dict[str, float]:
    return dict(zip(SURFACE, surface_features(read(request)), strict=True))


def test_counts_by_hand() -> None:
    found = features(RouteRequest("Is 42 = 6*7?\nYes, é"))  # 20 bytes: é is two of them
    assert found["log_bytes"] == pytest.approx(log1p(20))
    assert found["log_words"] == pytest.approx(log1p(5))
    assert found["log_lines"] == pytest.approx(log1p(1))
    assert found["digit_share"] == pytest.approx(4 / 20)
    assert found["uppercase_share"] == pytest.approx(2 / 20)
    assert found["symbol_share"] == pytest.approx(2 / 20)
    assert found["punctuation_share"] == pytest.approx(1 / 20)
    assert found["non_ascii_share"] == pytest.approx(2 / 20)
    assert found["log_questions"] == pytest.approx(log1p(1))
    assert found["log_messages"] == found["has_system"] == found["code_fences"] == 0.0


def test_an_empty_prompt_is_all_zeros() -> None:
    assert set(features(RouteRequest("")).values()) == {0.0}


def test_what_is_known_beside_the_text() -> None:
    found = features(
        RouteRequest(
            messages=(
                {"role": "system", "content": "```"},
                {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "hi"}]},
                {"role": "assistant", "content": None, "tool_calls": []},
            )
        )
    )
    assert found["log_bytes"] == pytest.approx(log1p(len("```\nhi")))
    assert found["log_messages"] == pytest.approx(log1p(3))
    for name in ("code_fences", "has_system", "has_image"):
        assert found[name] == 1.0


def test_what_no_log_has_is_no_feature() -> None:
    assert features(RouteRequest("x", tools=True, json_schema=True, max_output_tokens=99)) == features(
        RouteRequest("x")
    )


@pytest.mark.parametrize(("workflow", "expected"), [("a", [1, 0]), ("b", [0, 1]), ("c", [0, 0]), (None, [0, 0])])
def test_a_workflow_has_a_column_and_an_unknown_one_has_none(workflow: str | None, expected: list[int]) -> None:
    matrix = feature_matrix([RouteRequest("x", workflow=workflow)], ("a", "b"))
    assert matrix.dtype == np.float32
    assert matrix[0, len(SURFACE) :].tolist() == expected
    assert len(SURFACE) + 2 == matrix.shape[1]


@given(st.text(st.characters(), max_size=50))
def test_any_text_has_finite_features_and_shares_within_one(text: str) -> None:
    found = features(RouteRequest(text))
    assert all(np.isfinite(value) for value in found.values())
    assert all(0 <= value <= 1 for name, value in found.items() if name.endswith("_share"))


def test_a_request_is_read_once_by_hand() -> None:
    messages = ({"content": [{"type": "text", "text": "é?"}, {"type": "image_url"}]}, {"content": "ab"})
    found = read(RouteRequest(messages=messages))
    assert (found.text, found.data, found.needs) == ("é?\nab", b"\xc3\xa9?\nab", {Capability.VISION})
    assert found.histogram.tolist() == np.bincount(list(found.data), minlength=256).tolist()
    assert read(found) is found
    assert read("ab") == read(RouteRequest("ab"))
    assert read("a\ud800b").data == "a\ufffdb".encode()


def test_a_lone_surrogate_is_the_replacement_character() -> None:
    assert text_of(RouteRequest("a\ud800b")) == "a\ufffdb"
    assert text_of(RouteRequest("\ud83d\ude00 é")) == "😀 é"
