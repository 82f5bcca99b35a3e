"""Texts to embeddings: a tokenizer and an ONNX graph, both read from a bundle. Training embeds with this very code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from serving.bundle.arrays import Floats32
from serving.bundle.request import BYTES_PER_TOKEN, head_and_tail
from serving.bundle.wordpiece import WordTable

# Of a long text as many characters are looked at as the window has tokens, and half as many again: prose may run to more
# than the estimate for a token, and an 8,000-token prompt is to cost no more to tokenise than a 1,000-token one.
CHARS_PER_WINDOW_TOKEN = int(1.5 * BYTES_PER_TOKEN)
_BATCH_TOKENS = 16_384
_MASK = "attention_mask"


def onnx_session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    """A CPU session with its own thread count; one thread gives the steadiest latency for graphs this small."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Encoder:
    """Embeds texts with what `encoder.onnx` and `tokenizer.json` hold.

    The graph takes `input_ids` (n, length) and any of `attention_mask`, `token_type_ids`, and gives unit vectors
    (n, dim). One with an attention mask is a transformer, and embeds each text by itself: where it is quantised, what stands
    beside a text in a batch would change its embedding. Any other takes shorter texts padded by -1, for which the last of its
    token vectors is zero. A text longer than the window of `max_tokens` keeps its head and its tail. A text with no token
    gives the zero vector.
    """

    def __init__(self, onnx: bytes, tokenizer: bytes, max_tokens: int, threads: int = 1) -> None:
        self._session = onnx_session(onnx, threads)
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._words = WordTable.of(self._tokenizer)
        self.max_tokens = max_tokens
        self.dim: int = self._session.get_outputs()[0].shape[1]

    @classmethod
    def of(cls, onnx: bytes, tokenizer: bytes, max_tokens: int, threads: int = 1) -> Encoder:
        """The encoder of these files; one that is in use is shared, as bundles often have the same."""
        key = (hashlib.sha256(onnx).digest(), hashlib.sha256(tokenizer).digest(), max_tokens, threads)
        encoder = _IN_USE.get(key)
        if encoder is None:
            encoder = _IN_USE[key] = cls(onnx, tokenizer, max_tokens, threads)
        return encoder

    def encode(self, texts: Sequence[str]) -> Floats32:
        """(n, dim) float32, one row per text, in the order given."""
        cut = [head_and_tail(text, self.max_tokens * CHARS_PER_WINDOW_TOKEN) for text in texts]
        if len(cut) == 1:  # the serving path: no sorting, no padding
            ids = [self._window(self._ids(cut[0]))]
            return self._run(ids) if ids[0] else np.zeros((1, self.dim), dtype=np.float32)
        ids = [self._window(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(cut)]
        embeddings = np.zeros((len(texts), self.dim), dtype=np.float32)
        alone = _MASK in self._inputs
        for rows in _batches([len(row) for row in ids], 0 if alone else _BATCH_TOKENS):
            embeddings[rows] = self._run([ids[row] for row in rows])
        return embeddings

    def _ids(self, text: str) -> list[int]:
        known = None if self._words is None else self._words.ids(text)
        ids: list[int] = self._tokenizer.encode_batch_fast([text])[0].ids if known is None else known
        return ids

    def _window(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.max_tokens:
            return ids
        head = self.max_tokens // 2
        return ids[:head] + ids[head - self.max_tokens :]

    def _run(self, ids: list[list[int]]) -> Floats32:
        length = max(map(len, ids))
        tokens = np.full((len(ids), length), -1, dtype=np.int64)
        for row, values in enumerate(ids):
            tokens[row, : len(values)] = values
        feed = {name: tokens if name == "input_ids" else np.zeros_like(tokens) for name in self._inputs}
        if _MASK in feed:
            feed[_MASK] += 1
        output: Floats32 = self._session.run(None, feed)[0]
        return output


_IN_USE: WeakValueDictionary[tuple[bytes, bytes, int, int], Encoder] = WeakValueDictionary()


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Rows in batches of like length, of at most `most` padded tokens or one row; rows with no token are left out."""
    batch: list[int] = []
    for row in sorted((row for row, length in enumerate(lengths) if length), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
