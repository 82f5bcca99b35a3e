"""WordPiece: the ids that the tokenizer gives, from its vocabulary and a table of words in several pieces.

Of what a static encoder does for a prompt, taking the text apart costs the most. BERT's rules for ASCII are short enough
to be one regular expression, and most words of a prompt are a token each. What has another character in it is left to the
tokenizer, from one ASCII space to the next, and kept as a word is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tokenizers import Tokenizer

# BERT's pre-tokenizer on lower-cased ASCII: runs of letters and digits, and every other visible character by itself.
_WORDS = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_PARTS = re.compile(r"[^ \t\n\r]+")
# Its normaliser takes these out, which joins what stands on either side.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Words of several pieces are kept in two generations of so many: when the young one is full it becomes the old one, whose
# words are forgotten unless they were used again. A longer word is not kept.
_MOST_WORDS = 5_000
_LONGEST_WORD = 32
# A text with more unknown words than this is left to the tokenizer, which is quicker with a whole text than word by word.
_MOST_UNKNOWN = 64


class WordTable:
    """The token ids of texts under one BERT tokenizer that adds no tokens of its own. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, special: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        # WordPiece takes the longest piece that fits first: a word of the vocabulary is one token.
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        self._whole = {
            word: number for word, number in vocabulary.items() if len(word) <= _LONGEST_WORD and _WORDS.fullmatch(word)
        }
        self._young: dict[str, list[int]] = {}
        self._old: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordTable | None:
        """The table for a tokenizer; None for one with other rules than these."""
        rules = json.loads(tokenizer.to_str())
        normalizer = rules.get("normalizer") or {}
        fits = (
            (rules.get("model") or {}).get("type") == "WordPiece"
            and normalizer.get("type") == "BertNormalizer"
            and normalizer.get("lowercase") is True
            and normalizer.get("clean_text") is True
            and (rules.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
            and rules["model"].get("max_input_chars_per_word", 0) >= _LONGEST_WORD
            and rules.get("post_processor") is None
            and not any(token["normalized"] for token in rules["added_tokens"])
        )
        return cls(tokenizer, tuple(token["content"] for token in rules["added_tokens"])) if fits else None

    def ids(self, text: str) -> list[int] | None:
        """The ids, or None where the text is not for this table.

        That is one that has control characters or a special token's text, or too many words that are new here.
        """
        if any(token in text for token in self._special) or _CONTROL.search(text):
            return None
        whole, young = self._whole, self._young
        unknown = 0
        ids: list[int] = []
        for word in _WORDS.findall(text.lower()) if text.isascii() else _words(text):
            one = whole.get(word)
            if one is not None:
                ids.append(one)
                continue
            found = young.get(word)
            if found is None:
                found = self._old.get(word)
                if found is None:
                    unknown += 1
                    if unknown > _MOST_UNKNOWN:
                        return None
                    found = self._tokenizer.encode(word).ids
                self._keep(word, found)
            ids += found
        return ids

    def _keep(self, word: str, ids: list[int]) -> None:
        if len(word) > _LONGEST_WORD:
            return
        young = self._young
        if len(young) >= _MOST_WORDS:
            self._young, self._old = {}, young
        self._young[word] = ids


def _words(text: str) -> Iterator[str]:
    """The words of a text that is not all ASCII; what is not ASCII between two spaces is one of them, as it stands."""
    for part in _PARTS.findall(text):
        if part.isascii():
            yield from _WORDS.findall(part.lower())
        else:
            yield part
