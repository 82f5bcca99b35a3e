"""A TOML file that somebody wrote by hand: reading it, and what is said of a field that it cannot have."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

# Nobody writes more by hand.
_MOST_BYTES = 4 * 2**20


class TomlError(ValueError):
    """A file that cannot be read as TOML; the message names it, and what was expected."""


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """What the file holds; `expected` says what it should be. Raises TomlError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise TomlError(f"{path}: is no file; expected {expected}")
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            raise TomlError(f"{path}: has more than {_MOST_BYTES:,} bytes; expected {expected}")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TomlError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
    except TomlError:
        raise
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested or long beyond what is read
        twice = "; delete one of the two, or name one otherwise" if "twice" in str(error) else ""
        raise TomlError(f"{path}: not valid TOML: {error}{twice}") from None


def no_such_field(name: str, known: Iterable[str]) -> str:
    """That there is no such field, which may be meant, and which there are."""
    names = sorted(known)
    near = get_close_matches(name, names, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"there is no such field; {meant}expected one of {', '.join(names)}"
