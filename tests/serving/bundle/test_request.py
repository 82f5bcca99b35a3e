"""What a request takes, counted: by hand, never below a tokenizer, and growing with what is sent."""

from __future__ import annotations

import base64
import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.catalogue import Capability
from serving.bundle.request import RouteRequest, counted_tokens, read

ROOT = Path(__file__).parents[3]
DRAW = random.Random(0)

TEXTS = {
    "prose": (ROOT / "README.md").read_text(encoding="utf-8"),
    "code": Path(__file__).read_text(encoding="utf-8"),
    "capitals": (ROOT / "README.md").read_text(encoding="utf-8").upper(),
    "json": json.dumps([{"id": n, "name": f"x{n}", "value": DRAW.random()} for n in range(200)]),
    "indented": json.dumps([{"id": n, "value": [DRAW.random()] * 3} for n in range(100)], indent=4),
    "base64": base64.b64encode(DRAW.randbytes(5_000)).decode(),
    "hex": DRAW.randbytes(3_000).hex(),
    "letters": "".join(DRAW.choices(string.ascii_letters, k=5_000)),
    "small letters": "".join(DRAW.choices(string.ascii_lowercase, k=5_000)),
    "digits": "".join(DRAW.choices(string.digits, k=5_000)),
    "symbols": "".join(DRAW.choices(string.punctuation, k=5_000)),
    "printable": "".join(DRAW.choices(string.printable, k=5_000)),
    "Russian": "Маршрутизатор выбирает самую дешёвую модель, которая достаточно хороша. " * 10,
    "Chinese": "路由器选择最便宜的足够好的模型。今天天气很好，我们去公园散步吧。" * 10,
    "Japanese": "ルーターは十分に良い最も安いモデルを選びます。今日は天気がいいですね。" * 10,
    "Korean": "라우터는 충분히 좋은 가장 저렴한 모델을 선택합니다." * 10,
    "Hindi": "राउटर सबसे सस्ता मॉडल चुनता है जो पर्याप्त अच्छा है।" * 10,
    "Tamil": "திசைவி போதுமான நல்ல மலிவான மாதிரியைத் தேர்ந்தெடுக்கிறது" * 10,
    "Thai": "เราเตอร์เลือกโมเดลที่ถูกที่สุดที่ดีพอ" * 10,
    "Arabic": "يختار الموجه أرخص نموذج جيد بما فيه الكفاية" * 10,
    "French": "Le routeur choisit le modèle le moins cher; où est la bibliothèque à côté de l'école? " * 10,
    "German": "Der Verteiler wählt das günstigste Modell, das gut genug ist: Donaudampfschifffahrtsgesellschaft. " * 10,
    "emoji": "😀🎉🚀👩‍👩‍👧‍👦🏳️‍🌈" * 20,
}  # fmt: skip


def counted(*messages: dict[str, Any], **known: Any) -> int:
    return read(RouteRequest(messages=messages, **known)).counted


def test_a_count_by_hand() -> None:
    assert read("hello").counted == 2  # five common letters at .3
    assert read("Hi, 42").counted == 5  # H at .8, i .3, the comma .9, the blank .2, digits at 1
    assert read("").counted == 0
    assert counted({"role": "user", "content": "hello"}) == 6  # and 4 a message


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
@pytest.mark.parametrize("name", TEXTS)
def test_no_text_has_more_tokens_than_are_counted(encoding: str, name: str) -> None:
    tokens = pytest.importorskip("training.prices.tokens")
    known = tokens.load_encoding(encoding)
    if known is None:
        pytest.skip(f"{encoding} is not on disk")
    true = len(known.encode(TEXTS[name], disallowed_special=()))
    assert true <= counted_tokens(TEXTS[name])


def test_prose_and_code_are_not_counted_for_twice_what_they_have() -> None:
    tokens = pytest.importorskip("training.prices.tokens")
    known = tokens.load_encoding("o200k_base")
    if known is None:
        pytest.skip("o200k_base is not on disk")
    for name in ("prose", "code"):
        assert counted_tokens(TEXTS[name]) <= 2 * len(known.encode(TEXTS[name]))


@given(st.text(), st.text())
def test_a_longer_text_never_counts_for_less_and_none_for_more_than_its_bytes(one: str, other: str) -> None:
    one, other = (text.encode("utf-8", "replace").decode() for text in (one, other))
    assert read(one).counted <= read(one + other).counted <= len((one + other).encode())
    assert counted_tokens(one + other) == pytest.approx(counted_tokens(one) + counted_tokens(other))


def test_all_that_is_sent_counts() -> None:
    plain = {"role": "user", "content": "hello"}
    least = counted(plain)
    schema = json.dumps({"name": "f", "parameters": {"type": "object"}} | {"description": "x" * 9_000})
    assert counted(plain, definitions=schema) > least + 8_000
    call = {"function": {"name": "f", "arguments": json.dumps({"text": "word " * 5_000})}}
    assert counted({**plain, "tool_calls": [call]}) > least + 5_000
    assert counted({**plain, "name": "x" * 100}) > least + 80
    nested = {"type": "tool_result", "content": [{"type": "text", "text": "word " * 1_000}]}
    assert counted({"role": "user", "content": [nested]}) > 1_000
    assert counted({**plain, "odd": [10**30, None, True, 0.5, {"a": []}]}) > least


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}, Capability.VISION),
        ({"type": "image", "source": {"type": "base64", "data": "A" * 100_000}}, Capability.VISION),
        ({"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}}, Capability.AUDIO),
        ({"type": "file", "file": {"file_data": "A" * 100_000}}, Capability.PDF),
        ({"type": "document", "source": {"data": "A" * 100_000}}, Capability.PDF),
        ({"type": "video_url", "video_url": {"url": "https://example.org/film"}}, Capability.VIDEO),
    ],
)
def test_media_need_a_capability_and_count_as_media_not_as_text(part: dict[str, Any], needs: Capability) -> None:
    for content in ([part], [{"type": "tool_result", "content": [part]}]):
        found = read(RouteRequest(messages=({"role": "user", "content": content},)))
        assert found.needs == {needs}
        assert 1_600 <= found.counted < 5_000
        assert found.text == ""


PROSE = "The quick brown fox jumps over the lazy dog. " * 1_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": PROSE}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": PROSE}]}},
        {"type": "document", "source": {"data": "A" * 100}, "context": PROSE},
        {"type": "input_file", "file_data": PROSE},
        {"type": "input_file", "file_data": "\u732b\u72ac" * 20_000},
        {"type": "image", "alt": PROSE},
    ],
)
def test_text_in_a_medium_counts_as_text(part: dict[str, Any]) -> None:
    assert read(RouteRequest(messages=({"role": "user", "content": [part]},))).counted > 9_000


def test_what_looks_like_a_medium_elsewhere_than_in_content_counts_as_text() -> None:
    call = {"function": {"name": "f", "arguments": {"type": "image", "body": "A" * 50_000}}}
    found = read(RouteRequest(messages=({"role": "assistant", "content": None, "tool_calls": [call]},)))
    assert found.counted > 30_000
    assert found.needs == frozenset()
    assert counted({"role": "user " * 10_000, "content": ""}) > 9_000


def test_tools_and_a_schema_are_needs_like_any() -> None:
    assert read(RouteRequest("x", tools=True, json_schema=True)).needs == {Capability.TOOLS, Capability.JSON_SCHEMA}
    assert read("x").needs == frozenset()


def test_nesting_is_not_followed_by_recursion() -> None:
    deep: Any = "leaf"
    for _ in range(50_000):
        deep = [deep]
    assert counted({"role": "user", "content": "", "extra": deep}) > 50_000
