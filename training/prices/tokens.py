"""Input tokens of requests that were logged without: counted with the LLM's own encoding, else estimated.

An encoding is used only where its file is on disk, whole: tiktoken would download it otherwise.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tiktoken.model import encoding_name_for_model

from serving.bundle.catalogue import Candidate
from serving.bundle.request import Message, RouteRequest, estimated_tokens, text_of
from training.prices.price_map import litellm_folder

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ENCODINGS = "https://openaipublic.blob.core.windows.net/encodings"
_CL100K = (f"{_ENCODINGS}/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")
_O200K = (f"{_ENCODINGS}/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
# Where tiktoken downloads each encoding of a chat LLM from, and the sha256 without which it would do so again.
_FILES = {"cl100k_base": _CL100K, "o200k_base": _O200K, "o200k_harmony": _O200K}
# OpenAI's chat format: every message opens and closes with three tokens, and so does the answer.
_PER_MESSAGE = 3
_ANSWER = 3
# tiktoken's pattern overflows its stack on much longer runs of white space; a cut costs a token at most.
_LONGEST = 100_000


def input_tokens(
    requests: Sequence[RouteRequest], candidates: Sequence[Candidate], wanted: Bools
) -> tuple[Floats, Bools]:
    """Input tokens of n requests for m candidates, (n, m) with NaN where not `wanted` (n, m), and which were counted.

    Counted: the candidate's encoding is known and on disk, and the messages hold nothing but text; the count is that of
    OpenAI's chat format. The rest are estimated as UTF-8 bytes / 4. Tool definitions, which no log repeats, are in neither.
    """
    tokens = np.full(wanted.shape, np.nan)
    counted = np.zeros(wanted.shape, dtype=np.bool_)
    names = [encoding_name(candidate) for candidate in candidates]
    for name in dict.fromkeys(names):
        columns = np.flatnonzero([other == name for other in names])
        rows = np.flatnonzero(wanted[:, columns].any(axis=1))
        encoding = load_encoding(name) if name is not None and len(rows) else None
        for row in rows.tolist():
            count = None if encoding is None else chat_tokens(requests[row], encoding)
            cells = columns[wanted[row, columns]]
            tokens[row, cells] = estimated_tokens(text_of(requests[row])) if count is None else count
            counted[row, cells] = count is not None
    return tokens, counted


def encoding_name(candidate: Candidate) -> str | None:
    """tiktoken's encoding for a candidate, by its name or an alias, without providers' prefixes; None if it has none."""
    for name in (candidate.name, *candidate.aliases):
        try:
            return encoding_name_for_model(name.rpartition("/")[2].lower())
        except KeyError:
            continue
    return None


def load_encoding(name: str) -> tiktoken.Encoding | None:
    """The encoding, read from disk; None where its file is in none of the `folders`, or damaged."""
    if name not in _FILES:
        return None
    url, sha256 = _FILES[name]
    # tiktoken names a file in its cache after the address it came from.
    file = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    for folder in folders():
        path = folder / file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            with _cache_at(folder):
                return tiktoken.get_encoding(name)
    return None


def folders() -> tuple[Path, ...]:
    """Where encodings may lie: as the environment says, in the litellm package, where tiktoken keeps them by default."""
    named = [os.environ.get(variable) for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    package = litellm_folder()
    shipped = [] if package is None else [package / "litellm_core_utils" / "tokenizers"]
    return (*(Path(folder) for folder in named if folder), *shipped, Path(tempfile.gettempdir()) / "data-gym-cache")


def chat_tokens(request: RouteRequest, encoding: tiktoken.Encoding) -> int | None:
    """Tokens of a request in OpenAI's chat format; None where a message holds more than text, which has no public count."""
    messages: Sequence[Message] = request.messages or [{"role": "user", "content": request.prompt or ""}]
    total = _ANSWER
    for message in messages:
        texts = _texts(message)
        if texts is None:
            return None
        total += _PER_MESSAGE + sum(_count(text, encoding) for text in texts)
        total += 1 if message.get("name") else 0
    return total


def _texts(message: Message) -> list[str] | None:
    """Everything in a message that becomes tokens; None if some of it is not text."""
    content: Any = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not message.keys() <= {"role", "content", "name"}:
        return None
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    found = [message["role"], *([message["name"]] if message.get("name") else []), *texts]
    return found if all(isinstance(text, str) for text in found) else None


def _count(text: str, encoding: tiktoken.Encoding) -> int:
    return sum(len(encoding.encode_ordinary(text[start : start + _LONGEST])) for start in range(0, len(text), _LONGEST))


@contextmanager
def _cache_at(folder: Path) -> Iterator[None]:
    """tiktoken takes the folder it reads from out of the environment only."""
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
