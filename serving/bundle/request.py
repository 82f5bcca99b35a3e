"""A request, and what is read of it: its text, which is embedded, its length and whether it shows an image.

Training and serving share this one definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]

# What a token is taken to be where nothing has counted it: about right for English.
BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What is known of a request before any LLM has seen it.

    Either `prompt` or `messages` (OpenAI chat messages) is set; `messages` wins when both are.
    """

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    workflow: str | None = None
    session_id: str | None = None
    tools: bool = False
    json_schema: bool = False
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A request that was read once, which every later step takes.

    `text` is what is embedded, `data` the same in UTF-8; `image` says whether any message carries an image.
    """

    request: RouteRequest
    text: str
    data: bytes
    image: bool

    @property
    def tokens(self) -> float:
        """The tokens of its text, estimated: UTF-8 bytes are less wrong than characters where a script is not Latin."""
        return len(self.data) / BYTES_PER_TOKEN


def read(request: str | RouteRequest | ReadRequest) -> ReadRequest:
    """A bare string is a request with that prompt and nothing else; what was read before is given back."""
    if isinstance(request, ReadRequest):
        return request
    known = RouteRequest(prompt=request) if isinstance(request, str) else request
    text = text_of(known)
    return ReadRequest(known, text, text.encode(), has_image(known))


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


def estimated_tokens(text: str) -> float:
    """As `ReadRequest.tokens`, of any text."""
    return len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN


def has_image(request: RouteRequest) -> bool:
    """Whether any message carries an image part."""
    return any(
        isinstance(part, Mapping) and part.get("type") in ("image_url", "input_image", "image")
        for message in request.messages or ()
        for part in _parts(message)
    )


def head_and_tail(text: str, max_chars: int) -> str:
    """At most `max_chars` characters: a long text keeps its first and its last half, where the task usually stands."""
    if len(text) <= max_chars:
        return text
    head = (max_chars - 1) // 2  # one character goes to the line break between the two
    tail = max_chars - 1 - head
    return f"{text[:head]}\n{text[len(text) - tail :]}"


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
