"""The table of words gives what the tokenizer gives, for every text that it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace

from serving.bundle.wordpiece import AsciiWordPiece

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
WORDS = AsciiWordPiece.of(TOKENIZER)


def test_by_hand() -> None:
    assert WORDS is not None
    assert WORDS.ids("The cats_ undo. 12") == [2, 3, 4, 8, 5, 6, 7, 12, 13]
    assert WORDS.ids("dog") == [0]
    assert WORDS.ids("") == []


@pytest.mark.parametrize("text", ["thé", "a\x00b", "a\x0bb", "a [CLS] b"])
def test_what_it_leaves_to_the_tokenizer(text: str) -> None:
    assert WORDS is not None
    assert WORDS.ids(text) is None


@given(st.text(st.characters(max_codepoint=127)) | st.text("the cats_undo.12[CLS] \t\n\r"))
def test_every_ascii_text_has_the_tokenizers_ids(text: str) -> None:
    assert WORDS is not None
    found = WORDS.ids(text)
    assert found is None or found == TOKENIZER.encode(text).ids


@pytest.mark.parametrize("change", ["case", "split"])
def test_a_tokenizer_of_other_rules_has_no_table(change: str) -> None:
    tokenizer = made()
    if change == "case":
        tokenizer.normalizer = BertNormalizer(lowercase=False)
    else:
        tokenizer.pre_tokenizer = Whitespace()
    assert AsciiWordPiece.of(tokenizer) is None
