"""Kinds of work where a log names none: clusters of its prompts, which serve as its workflows throughout.

A request belongs to the kind whose middle its embedding is nearest to, which the exported graph computes for itself. How many
kinds there are is chosen by silhouette (Rousseeuw 1987), and each is named by the words that tell it most from the others:
words in lower case that many conversations share. A log without sessions does not tell one person's requests from many
people's, so names can be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import silhouette_score

from serving.bundle.arrays import Bools, Columns, Floats32

# Kinds have so many training requests on average, and none has fewer than half of that; they are found on at most so many
# requests, and scored on so many of these.
_LEAST = 60
_FITTED = 10_000
_SAMPLE = 2_000
# A word of a kind's name occurs in so many conversations of it at least, and in this share of them.
_CONVERSATIONS = 20
_SHARE = 0.1
_WORDS = 3
_TEXT_CHARS = 2_000
# No names of people and nothing of an address: lower case, no digit, nothing that an @, a dot, a slash or a hyphen touches.
# What is written without spaces has no words to be found by a pattern: Thai, Lao, Burmese, Khmer, and all from CJK on.
_WORD = r"(?<![\w@./\-])[^\W\d_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff]{3,20}(?![\w@\-]|\.\w)"
# Two middles that are about as near are told apart otherwise by float32 here than in the graph.
_CLEAR = 1e-5


@dataclass(frozen=True)
class Kinds:
    """The kinds by name, and `centres` (k, dim), unit vectors that are the middles of their clusters."""

    names: tuple[str, ...]
    centres: Floats32

    def of(self, embedding: Floats32) -> Columns:
        """(n,) the kind of each of n embeddings (n, dim)."""
        return np.asarray((embedding @ self.centres.T).argmax(axis=1))

    def one_hot(self, embedding: Floats32) -> Floats32:
        """(n, k) 1 for the kind of each of n embeddings (n, dim), else 0."""
        return np.eye(len(self.names), dtype=np.float32)[self.of(embedding)]

    def clear(self, embedding: Floats32) -> Bools:
        """(n,) whether one middle is clearly the nearest, or the text is empty: every machine finds the same kind then."""
        nearest = np.sort(embedding @ self.centres.T, axis=1)
        return np.asarray((nearest[:, -1] - nearest[:, -2] > _CLEAR) | ~embedding.any(axis=1))


def find_kinds(
    embedding: Floats32, texts: Sequence[str], groups: Columns, most: int, seed: int, *, named: bool = True
) -> Kinds | None:
    """The kinds of n requests by their unit embeddings (n, dim), at least 2 and at most `most`; None if there are too few.

    `groups` (n,) are their conversations. Of the numbers of kinds that are tried, the one of the highest silhouette is taken.
    Requests without text, whose embedding is zero, are of no kind, and count as of the first. Kinds that are not `named` are
    numbered.
    """
    written = np.flatnonzero(embedding.any(axis=1))
    embedding, groups, texts = embedding[written], groups[written], [texts[row] for row in written.tolist()]
    most = min(most, len(embedding) // _LEAST)
    if most < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(len(embedding))
    values = embedding[drawn[:_FITTED]].astype(np.float64)
    scored: list[tuple[float, KMeans]] = []
    for k in range(2, min(most, len(np.unique(values, axis=0))) + 1):
        fit = KMeans(k, n_init=3, random_state=seed).fit(values)
        smallest = np.bincount(fit.labels_, minlength=k).min() * len(embedding) / len(values)
        labels = fit.labels_[:_SAMPLE]
        if smallest >= _LEAST / 2 and 1 < len(np.unique(labels)) < len(labels):
            scored.append((float(silhouette_score(values[:_SAMPLE], labels)), fit))
    if not scored:  # the prompts are all the same, or all but a few of a kind
        return None
    centres = max(scored, key=lambda one: one[0])[1].cluster_centers_
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    kinds = Kinds(tuple(f"kind {number + 1}" for number in range(len(unit))), unit.astype(np.float32))
    if not named:
        return kinds
    return replace(kinds, names=_names(texts, groups, kinds.of(embedding), len(unit)))


def _names(texts: Sequence[str], groups: Columns, kind: Columns, k: int) -> tuple[str, ...]:
    """Each kind's most telling words; its number, where it has none of its own."""
    vectoriser = CountVectorizer(
        binary=True, lowercase=False, stop_words="english", token_pattern=_WORD, max_features=20_000
    )
    try:
        words = vectoriser.fit_transform([text[:_TEXT_CHARS] for text in texts])
    except ValueError:  # no word anywhere
        return tuple(f"kind {number + 1}" for number in range(k))
    # One request of each conversation: what somebody says in every turn is not what many say.
    first = np.unique(groups, return_index=True)[1]
    words, kind = words[first], kind[first]
    counts = np.array([np.asarray(words[kind == number].sum(axis=0)).ravel() for number in range(k)], dtype=np.float64)
    sizes = np.bincount(kind, minlength=k).astype(np.float64)[:, None]
    inside = counts / np.maximum(sizes, 1.0)
    outside = (counts.sum(axis=0) - counts) / np.maximum(sizes.sum() - sizes, 1.0)
    # What a word adds to the likelihood of its kind: its share in it times the logarithm of how much higher that share is.
    telling = inside * np.log((inside + 1e-3) / (outside + 1e-3))
    vocabulary = vectoriser.get_feature_names_out()
    lower = np.array([word == word.lower() for word in vocabulary])
    telling[(counts < _CONVERSATIONS) | (inside < _SHARE) | ~lower] = 0.0
    names: list[str] = []
    for number, row in enumerate(telling):
        top = [str(vocabulary[column]) for column in np.argsort(-row, kind="stable")[:_WORDS] if row[column] > 0]
        name = " / ".join(top) or f"kind {number + 1}"
        names.append(name if name not in names else f"{name} ({number + 1})")
    return tuple(names)
