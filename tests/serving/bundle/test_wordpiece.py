"""The table of words gives what the tokenizer gives, for every text that it takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace

from serving.bundle import wordpiece
from serving.bundle.wordpiece import WordTable

VOCABULARY = (
    "[UNK]",
    "[CLS]",
    "the",
    "cat",
    "##s",
    "un",
    "##do",
    ".",
    "_",
    "[",
    "]",
    "cls",
    "1",
    "##2",
    "a",
    "b",
    "ab",
)


def made() -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[CLS]", special=True, normalized=False)])
    return tokenizer


TOKENIZER = made()
WORDS = WordTable.of(TOKENIZER)


def test_by_hand() -> None:
    assert WORDS is not None
    assert WORDS.ids("The cats_ undo. 12") == [2, 3, 4, 8, 5, 6, 7, 12, 13]
    assert WORDS.ids("dog") == [0]
    assert WORDS.ids("") == []


@pytest.mark.parametrize("text", ["a\x00b", "é\x00b", "a\x0bb", "a [CLS] b"])
def test_what_it_leaves_to_the_tokenizer(text: str) -> None:
    assert WORDS is not None
    assert WORDS.ids(text) is None


@given(st.text(st.characters(max_codepoint=127)) | st.text("the cats_undo.12[CLS] \t\n\r"))
def test_every_ascii_text_has_the_tokenizers_ids(text: str) -> None:
    assert WORDS is not None
    found = WORDS.ids(text)
    assert found is None or found == TOKENIZER.encode(text).ids


@given(st.text() | st.text("the cats_undo.12é́ñ猫Ⅻİ[CLS] \t\n\r\x85\u2028\u3000\u200b\ufffd"))
def test_every_other_text_has_them_too(text: str) -> None:
    assert WORDS is not None
    found = WORDS.ids(text)
    assert found is None or found == TOKENIZER.encode(text).ids


def test_words_that_are_new_are_forgotten_first_and_many_of_them_are_left_to_the_tokenizer() -> None:
    words = WordTable.of(TOKENIZER)
    assert words is not None
    asked: list[str] = []
    words._tokenizer = SimpleNamespace(encode=lambda word: asked.append(word) or TOKENIZER.encode(word))
    assert words.ids("the cats") == [2, 3, 4]
    for number in range(300):
        assert words.ids(" ".join(f"junk{number}x{place}" for place in range(1_000))) is None
    assert len(asked) < 300 * 100, "the rest was not taken word by word"
    asked.clear()
    assert words.ids("the cats " * 1_000) == [2, 3, 4] * 1_000
    assert (words.ids("a" * 40), words.ids("a" * 40)) == ([0], [0])
    assert len(asked) <= 4, "a word that is too long to keep, twice, and at most two that were forgotten"


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "_MOST_WORDS", 100)
    words = WordTable.of(TOKENIZER)
    assert words is not None
    for number in range(1_000):
        words.ids(f"junk{number} the cats")
        assert len(words._young) <= 100
        assert len(words._old) <= 100
    assert "cats" in words._young or "cats" in words._old, "what is used again is kept"
    assert "the" not in words._young, "a word that is one token takes no room"


@pytest.mark.parametrize("change", ["case", "split"])
def test_a_tokenizer_of_other_rules_has_no_table(change: str) -> None:
    tokenizer = made()
    if change == "case":
        tokenizer.normalizer = BertNormalizer(lowercase=False)
    else:
        tokenizer.pre_tokenizer = Whitespace()
    assert WordTable.of(tokenizer) is None
