"""What of a listing may be read takes as much work as there are objects, whatever others write there."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from training.logs.objects.address import Address
from training.logs.objects.listing import Listing
from training.logs.objects.store import Found


def marked(count: int) -> list[str]:
    """A whole import, and others into its folder that never came to their end."""
    left = [key for one in range(count) for key in (f"x/_importing-{one:012x}", f"x/part-00000-{one:012x}.parquet")]
    return ["x/_account.json", "x/part", *left]


def imports(count: int) -> list[str]:
    return [key for one in range(count) for key in (f"x/{one:06}/_account.json", f"x/{one:06}/part")]


def looked_at(keys: list[str]) -> tuple[list[str], int]:
    """What may be read, and how many calls it took to find."""
    listing = Listing.of("x/", [Found(key, 1, "1", datetime.now(UTC)) for key in keys])
    calls = 0

    def count(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = list(listing.whole(Address("s3", "logs", "x/"), lambda _: b'{"files": {"part": 1}}'))
    finally:
        sys.setprofile(None)
    return found, calls


@pytest.mark.parametrize(("keys", "read"), [(marked, 1), (imports, 200)])
def test_the_work_grows_as_the_objects_do(keys: Any, read: int) -> None:
    _, few = looked_at(keys(100))
    found, many = looked_at(keys(200))
    assert len(found) == read
    assert many < 2.2 * few
