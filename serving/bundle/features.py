"""Surface features: what can be counted in a request without understanding it.

One pass over the bytes gave every character count already (`ReadRequest.histogram`), so this costs a few microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log1p

import numpy as np

from serving.bundle.arrays import Floats, Floats32
from serving.bundle.catalogue import Capability
from serving.bundle.request import ReadRequest, RouteRequest, read

SURFACE: tuple[str, ...] = (
    "log_bytes",
    "log_words",
    "log_lines",
    "digit_share",
    "uppercase_share",
    "symbol_share",
    "punctuation_share",
    "non_ascii_share",
    "log_questions",
    "code_fences",
    "log_messages",
    "has_system",
    "has_image",
)

# Those that grow with the prompt.
LENGTHS: tuple[str, ...] = ("log_bytes", "log_words", "log_lines", "log_questions", "log_messages")

_BYTES = 256


def _byte_classes() -> Floats:
    """(256, 8) one column per class of byte: space, newline, digit, upper case, symbol, punctuation, non-ASCII, '?'."""
    classes = np.zeros((_BYTES, 8))
    for column, members in enumerate((b" \t\n", b"\n", b"0123456789", None, b"{}[]()<>=+*/\\|&^%$#@_`~", b".,;:!'\"-")):
        if members is not None:
            classes[list(members), column] = 1.0
    classes[ord("A") : ord("Z") + 1, 3] = 1.0
    classes[128:, 6] = 1.0
    classes[ord("?"), 7] = 1.0
    return classes


_CLASSES = _byte_classes()


def surface_features(request: ReadRequest) -> list[float]:
    """The features named in `SURFACE`, in that order, for one request."""
    size = len(request.data)
    counts = (request.histogram @ _CLASSES).tolist()
    spaces, lines, digits, upper, symbols, punctuation, non_ascii, questions = counts
    share = 1.0 / max(size, 1)
    messages = request.request.messages or ()
    return [
        log1p(size),
        log1p(spaces),
        log1p(lines),
        digits * share,
        upper * share,
        symbols * share,
        punctuation * share,
        non_ascii * share,
        log1p(questions),
        1.0 if "```" in request.text else 0.0,
        log1p(len(messages)),
        1.0 if any(message.get("role") in ("system", "developer") for message in messages) else 0.0,
        1.0 if Capability.VISION in request.needs else 0.0,
    ]


def feature_matrix(requests: Sequence[RouteRequest | ReadRequest], workflows: Sequence[str]) -> Floats32:
    """(n, len(SURFACE) + len(workflows)) float32: the surface features, then one column per workflow.

    A missing or unknown workflow leaves its columns all zero.
    """
    surface = len(SURFACE)
    matrix = np.zeros((len(requests), surface + len(workflows)), dtype=np.float32)
    column = {workflow: surface + index for index, workflow in enumerate(workflows)}
    for row, one in enumerate(requests):
        request = read(one)
        matrix[row, :surface] = surface_features(request)
        workflow = request.request.workflow
        if workflow is not None and (at := column.get(workflow)) is not None:
            matrix[row, at] = 1.0
    return matrix
