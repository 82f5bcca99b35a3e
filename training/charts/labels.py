"""Where the names in a chart of cost and quality stand, so that none lies on a line, on a point or on another name.

Places are tried on a drawing of two sizes, for a chart is as wide as the page has room; what finds no free place in one of them
is not named there: whoever wants it has the tooltip and the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from training.charts.theme import Row

FONT_SIZE = 11
# Plots of fewer pixels take the places that were found for a narrow one.
NARROW_BELOW = 430
_SIZES = {False: (560.0, 320.0), True: (255.0, 250.0)}
# As wide as a letter of the fonts in use is on average, and the pixels that a name keeps from its point and from all else.
_LETTER, _AWAY, _APART = 6.1, 9.0, 2.0
# (align, baseline, how far to the right and downwards, in steps of `_AWAY`), the most wanted first.
_SIDES = (
    ("left", "middle", 1.0, 0.0),
    ("right", "middle", -1.0, 0.0),
    ("left", "top", 0.9, 0.4),
    ("left", "bottom", 0.9, -0.4),
    ("right", "top", -0.9, 0.4),
    ("right", "bottom", -0.9, -0.4),
    ("center", "top", 0.0, 1.0),
    ("center", "bottom", 0.0, -1.0),
    ("left", "top", 0.9, 1.6),
    ("right", "bottom", -0.9, -1.6),
    ("right", "top", 0.0, 1.2),
    ("right", "top", 0.0, 2.4),
    ("right", "bottom", 0.0, -2.4),
    ("left", "bottom", 0.0, -2.4),
    ("left", "top", 0.0, 2.4),
    ("right", "top", 0.6, 3.4),
    ("left", "top", 0.9, 2.8),
    ("right", "bottom", 0.6, -3.4),
)

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Axes:
    """The amounts and the shares that the edges of a plot stand for; amounts in the logarithm where `log`."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    def at(self, cost: float, quality: float, size: tuple[float, float]) -> Point:
        """In pixels, from the upper left."""
        low, high, value = (*self.x, cost) if not self.log else map(math.log, (*self.x, max(cost, 1e-12)))
        return (
            size[0] * (value - low) / ((high - low) or 1.0),
            size[1] * (1.0 - (quality - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)),
        )


def of_shares(values: Iterable[float]) -> tuple[float, float]:
    """The ends of an axis of shares: whole steps around them, a fifth of the span or less."""
    known = list(values)
    low, high = min(known), max(known)
    step = next((one for one in (0.002, 0.005, 0.01, 0.02, 0.05) if high - low <= 10 * one), 0.05)
    most = 1.0 if high <= 1.0 else math.inf
    return round(step * math.floor(low / step - 0.2), 6), min(round(step * math.ceil(high / step + 0.2), 6), most)


def placed(
    names: Sequence[tuple[str, Sequence[Point]]],
    lines: Iterable[Sequence[Point]],
    dots: Sequence[Point],
    axes: Axes,
) -> list[Row]:
    """A row for each name and size of the plot where it has a free place: `label`, its point (`cost`, `quality`), and how it
    stands to it (`align`, `baseline`, `dx`, `dy`). `names` come with the points that they may stand at, the most important
    first; `lines` and `dots` are what they keep away from. All are (cost, quality)."""
    lines = list(lines)
    rows: list[Row] = []
    for narrow, size in _SIZES.items():
        drawn = [[axes.at(*point, size) for point in line] for line in lines]
        pieces = [piece for line in drawn for piece in pairwise(line)]
        taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in (axes.at(*dot, size) for dot in dots)]
        for name, points in names:
            if (found := _free(name, points, axes, size, pieces, taken)) is not None:
                row, box = found
                taken.append(box)
                rows.append({**row, "narrow": narrow})
    return rows


def _free(
    name: str,
    points: Sequence[Point],
    axes: Axes,
    size: tuple[float, float],
    pieces: Sequence[tuple[Point, Point]],
    taken: Sequence[Box],
) -> tuple[Row, Box] | None:
    for cost, quality in points:
        x, y = axes.at(cost, quality, size)
        for align, baseline, right, down in _SIDES:
            dx, dy = right * _AWAY, down * _AWAY
            box = _box(name, x + dx, y + dy, align, baseline)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
            if (
                inside
                and not any(_overlap(box, one) for one in taken)
                and not any(_crosses(box, one) for one in pieces)
            ):
                row = {"label": name, "cost": cost, "quality": quality, "align": align, "baseline": baseline}
                return {**row, "dx": dx, "dy": dy}, box
    return None


def _box(name: str, x: float, y: float, align: str, baseline: str) -> Box:
    wide, high = _LETTER * len(name), FONT_SIZE + 2.0
    left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * wide
    top = y - {"top": 0.0, "middle": 0.5, "bottom": 1.0}[baseline] * high
    return left - _APART, top - _APART, left + wide + _APART, top + high + _APART


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _crosses(box: Box, piece: tuple[Point, Point]) -> bool:
    """Whether a straight piece of a line passes through a box (Liang & Barsky 1984)."""
    (x, y), (to_x, to_y) = piece
    begin, end = 0.0, 1.0
    for step, near, far in ((to_x - x, box[0] - x, box[2] - x), (to_y - y, box[1] - y, box[3] - y)):
        if step == 0:
            if near > 0 or far < 0:
                return False
            continue
        first, last = sorted((near / step, far / step))
        begin, end = max(begin, first), min(end, last)
    return begin <= end


def efficient(singles: Sequence[Mapping[str, Any]]) -> set[str]:
    """The candidates than which no other is both cheaper and better."""
    best, found = -math.inf, set()
    for one in sorted(singles, key=lambda one: (one["cost_usd"], -one["quality"])):
        if one["quality"] > best:
            best = one["quality"]
            found.add(one["candidate"])
    return found


def best_baseline(document: Mapping[str, Any], router: str) -> str | None:
    """The router that anybody could have trained instead with the highest AIQ; `router` is this one, with its variants."""
    others = [
        line
        for line in document.get("routers", ())
        if line["name"] in document["curves"]
        and not line["name"].startswith(router)
        and line["name"] != "oracle"
        and not line.get("simulated_truth")
        and line.get("aiq") is not None
    ]
    return max(others, key=lambda line: line["aiq"])["name"] if others else None
