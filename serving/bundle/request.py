"""A request, and what is read of it: its text, which is embedded, its length in tokens and what it needs of a candidate.

Training and serving share this one definition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from serving.bundle.arrays import Columns, Floats
from serving.bundle.catalogue import Capability

Message = Mapping[str, Any]

# What a token is taken to be where one figure has to do: about right for English.
BYTES_PER_TOKEN = 4.0

# What a message costs beside its text, what an image does, and of sound, film and documents one token so many bytes.
_MESSAGE_TOKENS = 4
_MEDIA_TOKENS = 1_600
_MEDIA_BYTES_PER_TOKEN = 50
# A string in such a part that is longer than names and identifiers are is the medium itself, or text.
_LONGEST_NAME, _LONGEST_ROLE = 200, 32
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\r\n-]*")
_PIECE = 1_000
_BYTES = 256
_SLICE = 64 * 1024  # counting lets other threads run between slices

_MEDIA = {
    **dict.fromkeys(("image_url", "input_image", "image"), Capability.VISION),
    **dict.fromkeys(("input_audio", "audio_url", "audio"), Capability.AUDIO),
    **dict.fromkeys(("file", "input_file", "document"), Capability.PDF),
    **dict.fromkeys(("video_url", "input_video", "video"), Capability.VIDEO),
}


def _tokens_of_bytes() -> Floats:
    """(256,) tokens that one byte of each value is taken for.

    Common letters make long tokens and rare ones do not, so that a text of random letters counts for more than one of words;
    a digit, a symbol or a control character may be a token by itself.
    """
    tokens = np.ones(_BYTES)
    tokens[list(b"acdehilnorstu")] = 0.3
    tokens[list(b"bfgmpvwy")] = 0.7
    tokens[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")] = 0.8
    tokens[list(b"{}[]()<>=+*/\\|&^%$#@_`~.,;:!'\"-?")] = 0.9
    tokens[list(b" ")] = 0.2
    tokens[128:] = 0.75
    return tokens


_TOKENS_OF_BYTES = _tokens_of_bytes()


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What is known of a request before any LLM has seen it.

    Either `prompt` or `messages` (OpenAI chat messages) is set; `messages` wins when both are. `tools` and `json_schema` say
    what the answer takes, `definitions` holds the text of both as they are sent: they take room in the window.
    """

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    workflow: str | None = None
    session_id: str | None = None
    tools: bool = False
    json_schema: bool = False
    max_output_tokens: int | None = None
    definitions: str = ""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A request that was read once, which every later step takes.

    `text` is what is embedded, `data` the same in UTF-8 and `histogram` (256,) how often each byte value is in it. `needs`
    are the capabilities that its shape takes. `counted` are the tokens of all that is sent, by a bound that errs upwards:
    what the rules and budgets go by (`counted_tokens`). `said` is the part of it that logs hold too, without the definitions
    of tools and schemas: what expected costs go by, in training as in serving.
    """

    request: RouteRequest
    text: str
    data: bytes
    histogram: Columns = field(compare=False, repr=False)
    needs: frozenset[Capability]
    counted: int
    said: int


def read(request: str | RouteRequest | ReadRequest) -> ReadRequest:
    """A bare string is a request with that prompt and nothing else; what was read before is given back."""
    if isinstance(request, ReadRequest):
        return request
    known = RouteRequest(prompt=request) if isinstance(request, str) else request
    text = text_of(known)
    data = text.encode()
    histogram = byte_histogram(data)
    beside = _Beside()
    for message in known.messages or ():
        beside.add_message(message)
    tokens = float(histogram @ _TOKENS_OF_BYTES) + beside.tokens
    if beside.texts:
        tokens += counted_tokens("\n".join(beside.texts))
    if known.tools:
        beside.needs.add(Capability.TOOLS)
    if known.json_schema:
        beside.needs.add(Capability.JSON_SCHEMA)
    defined = counted_tokens(known.definitions) if known.definitions else 0.0
    return ReadRequest(known, text, data, histogram, frozenset(beside.needs), ceil(tokens + defined), ceil(tokens))


def text_of(request: RouteRequest) -> str:
    """The text of a request: its prompt, or the text parts of all its messages in order, a line between them.

    Images, audio and tool-call arguments carry no text here; a request made of them alone has the text "".
    Lone surrogates, which JSON allows and UTF-8 does not, become U+FFFD.
    """
    if request.messages is None:
        text = request.prompt or ""
    else:
        text = "\n".join(part for message in request.messages for part in _text_parts(message))
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def byte_histogram(data: bytes) -> Columns:
    """(256,) how often each byte value is in `data`."""
    if len(data) <= _SLICE:
        return np.bincount(np.frombuffer(data, np.uint8), minlength=_BYTES)
    counts = np.zeros(_BYTES, dtype=np.intp)
    for start in range(0, len(data), _SLICE):
        counts += np.bincount(np.frombuffer(data, np.uint8, min(_SLICE, len(data) - start), start), minlength=_BYTES)
    return counts


def counted_tokens(text: str) -> float:
    """The tokens of any text, by a sum over its bytes that errs upwards: some 1.7 times what English prose and code have.

    Held against OpenAI's two encodings by the tests: it is not below them on prose, code, numbers, random letters and a dozen
    scripts. It is below for a list of single letters (by half), for a text of few letters such as DNA, and under the older
    encoding for Armenian and Amharic: nothing but the count of bytes bounds every tokenizer.
    """
    return float(byte_histogram(text.encode("utf-8", "replace")) @ _TOKENS_OF_BYTES)


def estimated_tokens(text: str) -> float:
    """The tokens of any text as they are expected: bytes are less wrong than characters where a script is not Latin."""
    return len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN


def head_and_tail(text: str, max_chars: int) -> str:
    """At most `max_chars` characters: a long text keeps its first and its last half, where the task usually stands."""
    if len(text) <= max_chars:
        return text
    head = (max_chars - 1) // 2  # one character goes to the line break between the two
    tail = max_chars - 1 - head
    return f"{text[:head]}\n{text[len(text) - tail :]}"


class _Beside:
    """What a request sends beside its text: other texts, media and what it needs for them, and tokens counted already."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.needs: set[Capability] = set()
        self.tokens = 0.0

    def add_message(self, message: Message) -> None:
        self.tokens += _MESSAGE_TOKENS
        for key, value in message.items():
            if key == "content":
                for part in _parts(message):
                    if isinstance(part, Mapping):
                        # its text, if it has one, is part of the request's own
                        own = isinstance(part.get("text"), str)
                        self._add({name: one for name, one in part.items() if not (own and name == "text")})
            elif key != "role" or not isinstance(value, str) or len(value) > _LONGEST_ROLE:
                self._add({key: value}, media=False)

    def _add(self, value: Any, *, media: bool = True) -> None:
        """Counts what stands beside the text; what looks like `media` is that in a message's content alone."""
        waiting = [value]  # no recursion: nesting is the client's to choose
        while waiting:
            one = waiting.pop()
            if isinstance(one, str):
                self.texts.append(one)
            elif isinstance(one, Mapping):
                kind = one.get("type")
                medium = _MEDIA.get(kind) if isinstance(kind, str) else None
                if media and medium is not None:
                    self._add_medium(one, medium)
                    continue
                self.texts.extend(key for key in one if isinstance(key, str))
                waiting.extend(one.values())
                self.tokens += 2 * len(one)
            elif isinstance(one, list | tuple):
                waiting.extend(one)
                self.tokens += len(one)
            else:
                self.tokens += one.bit_length() / 3 + 1 if isinstance(one, int) else 20.0 if one is not None else 1.0

    def _add_medium(self, part: Mapping[str, Any], medium: Capability) -> None:
        self.needs.add(medium)
        self.tokens += _MEDIA_TOKENS
        for text in _strings(part):
            if len(text) > _LONGEST_NAME and not _is_encoded(text):  # a document may be plain text
                self.texts.append(text)
            elif medium is not Capability.VISION:
                self.tokens += len(text) / _MEDIA_BYTES_PER_TOKEN


def _is_encoded(text: str) -> bool:
    """Whether a string in a medium's part is an address or its bytes in base64, by a few pieces of it."""
    if text.startswith(("data:", "http:", "https:")):
        return True
    pieces = (text[start : start + _PIECE] for start in (0, len(text) // 2, max(len(text) - _PIECE, 0)))
    return all(_BASE64.fullmatch(piece) for piece in pieces)


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)


def _parts(message: Message) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else (content,)


def _text_parts(message: Message) -> list[str]:
    texts = []
    for part in _parts(message):
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str) and text:
            texts.append(text)
    return texts
