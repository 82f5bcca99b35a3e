"""How large a JSON document is, seen from its bytes: before it is parsed, for a parser holds up every thread until then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Deeper documents are refused. The parser's own limit, past which it says nothing of use, is 200.
DEEPEST = 128
# Above either a body is handled in a worker thread: reading it would hold up the requests behind it.
_INLINE_BYTES = 32 * 1024
_INLINE_OPENED = 1_000
# So many bytes at a time: no step keeps the interpreter from other threads for long, and little memory is needed.
_BLOCK = 64 * 1024
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
# No float is as long, and what reads or writes an integer of thousands of digits lets nothing else run meanwhile.
_MOST_DIGITS = 400
_ZERO = np.uint8(ord("0"))
_DIGITS_ALONE = bytes(48 if 48 <= value < 58 else 0 for value in range(256))
_LONG_RUN = b"0" * _MOST_DIGITS

Bytes = NDArray[np.uint8]


def _marks(members: bytes, value: int) -> NDArray[np.int8]:
    table = np.zeros(256, dtype=np.int8)
    table[list(members)] = value
    return table


_BEGINS_A_VALUE = _marks(b"{[,", 1)
_STEP = _marks(b"{[", 1) + _marks(b"}]", -1)


def is_small(body: bytes) -> bool:
    """Whether a body is so short, and has so few objects and lists, that the event loop may handle it."""
    return len(body) <= _INLINE_BYTES and body.count(b"{") + body.count(b"[") <= _INLINE_OPENED


def too_large(body: bytes, most_values: int) -> str | None:
    """What is too much of a document, or None: values (entries of objects and lists), depth, or digits of a number.

    Only a document that its bytes make suspicious is looked through for what of that stands outside its strings.
    """
    opened = body.count(b"{") + body.count(b"[")
    digits = len(body) >= _MOST_DIGITS and _LONG_RUN in body.translate(_DIGITS_ALONE)
    if opened <= DEEPEST and opened + body.count(b",") <= most_values and not digits:
        return None
    values, depth, longest = _measured(body, most_values)
    if values > most_values:
        return f"it has more than {most_values:,} JSON values (ROUTER_MAX_VALUES)"
    if longest >= _MOST_DIGITS:
        return f"it has a number of {_MOST_DIGITS} digits or more"
    return f"it is nested deeper than {DEEPEST} levels" if depth > DEEPEST else None


def _measured(body: bytes, most_values: int) -> tuple[int, int, int]:
    """(values, depth, digits of the longest number) of a document, read no further than to the first that is too much."""
    document: Bytes = np.frombuffer(body, dtype=np.uint8)
    values = depth = deepest = run = longest = 0
    inside = escaped = False
    for start in range(0, document.size, _BLOCK):
        block = document[start : start + _BLOCK]
        quoted, inside, escaped = _strings(block, inside, escaped)
        values += int(np.count_nonzero(_BEGINS_A_VALUE[block] & ~quoted))
        depths = np.cumsum(_STEP[block] * ~quoted, dtype=np.int32)
        deepest = max(deepest, depth + int(depths.max()))
        depth += int(depths[-1])
        others = np.flatnonzero((block - _ZERO > 9) | quoted)  # what is no digit of a number; below "0" it wraps
        ends = np.concatenate(([-1 - run], others, [block.size]))
        longest = max(longest, int(np.diff(ends).max()) - 1)
        run = int(block.size - ends[-2] - 1)
        if values > most_values or deepest > DEEPEST or longest >= _MOST_DIGITS:
            break
    return values, deepest, longest


def _strings(block: Bytes, inside: bool, escaped: bool) -> tuple[NDArray[np.bool_], bool, bool]:
    """Which bytes lie in strings, and whether the next block begins in one and with an escaped byte; so of the one before."""
    quotes = block == _QUOTE
    after = np.zeros(block.size + 1, dtype=bool)  # what a backslash takes the meaning of
    after[0] = escaped
    slashes = np.flatnonzero(block == _BACKSLASH)
    if slashes.size:
        # Of a run of backslashes every second one is escaped by the one before it.
        first = np.concatenate(([True], np.diff(slashes) > 1))
        place = np.arange(slashes.size) - np.maximum.accumulate(np.where(first, np.arange(slashes.size), 0))
        if escaped and slashes[0] == 0:
            run = np.cumsum(first) == 1
            place[run] += 1
        after[slashes[place % 2 == 0] + 1] = True
    quotes &= ~after[:-1]
    # Wrapping at 256 leaves a sum's parity what it is.
    odd = (np.cumsum(quotes, dtype=np.uint8) & 1).astype(bool)
    return odd ^ inside, bool(odd[-1]) ^ inside, bool(after[-1])
