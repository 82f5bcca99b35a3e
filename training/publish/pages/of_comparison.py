"""Two bundles on one page: the first screen of each side by side, both frontiers, and what one log says of the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.bundle.manifest import Bundle, Manifest
from training.charts import frontier
from training.charts.tables import table
from training.publish.document import SCHEMA, read_document
from training.publish.making import read_making
from training.publish.pages.blocks import Chart, Table, chart, rendered
from training.publish.pages.first_screen import FirstScreen, first_screen
from training.publish.pages.written import money, percent, signed_money, signed_percent, thousand
from training.publish.side_by_side import ENOUGH, Part, SideBySide

_NO_POINTS: dict[str, Any] = {"points": (), "singles": (), "log": None}


@dataclass(frozen=True)
class Side:
    """One of the two: its manifest, its `frontier.json` where it has one of today's schema, and its first screen."""

    manifest: Manifest
    document: Mapping[str, Any] | None
    screen: FirstScreen

    @staticmethod
    def of(bundle: Bundle) -> Side:
        document, making = read_document(bundle.folder), read_making(bundle.folder)
        if document is not None and document.get("schema") != SCHEMA:
            document = None
        screen = first_screen(bundle.manifest, document or _NO_POINTS, making or {})
        return Side(bundle.manifest, document, screen)


def render(
    first: Bundle, second: Bundle, found: SideBySide | None, why_not: str | None = None, warnings: Sequence[str] = ()
) -> str:
    """The page of both; `found` is the comparison on one log, and `why_not` says why there is none."""
    sides = (Side.of(first), Side.of(second))
    return rendered(
        "compare.html.j2",
        sides=sides,
        simulated=any(side.manifest.simulated for side in sides),
        title=_title(sides, found),
        names=_called(sides),
        differences=[] if found is None else _differences(sides, found),
        found=found,
        why_not=why_not,
        warnings=warnings,
        enough=ENOUGH,
        same_log=first.manifest.data_fingerprint == second.manifest.data_fingerprint,
        chart=_chart(sides),
        gaps=None if found is None else _gaps(found),
        shares=None if found is None else _shares(found),
        setups=_setups(sides),
        points=_points(sides),
        no_chart=_no_chart(sides),
        command=f"router-train compare {first.folder} {second.folder}{' --data LOG' if found else ''} --html compare.html",
    )


def _called(sides: tuple[Side, Side]) -> tuple[str, str]:
    """What either is called: which is newer, and its version, for a version alone tells nobody which that is."""
    first, second = (side.manifest for side in sides)
    if first.version == second.version:
        return f"the first ({first.version})", f"the second ({second.version})"
    if first.created == second.created:
        return first.version, second.version
    ages = ("the older", "the newer") if first.created < second.created else ("the newer", "the older")
    return f"{ages[0]} bundle ({first.version})", f"{ages[1]} bundle ({second.version})"


def _title(sides: tuple[Side, Side], found: SideBySide | None) -> str:
    first, second = _called(sides)
    if found is None:
        return f"{first[0].upper()}{first[1:]} and {second}, each by what its own test part says"
    whole = found.whole
    if not whole.enough:
        return f"{second[0].upper()}{second[1:]} beside {first}: too few requests to tell them apart"
    costs = (
        f"costs {money(abs(1000 * (gap := whole.cost_usd[1] - whole.cost_usd[0])))} {'less' if gap < 0 else 'more'} per 1,000 "
        "requests than"
        if _surely(whole.cost_gap)
        else "costs about the same as"
    )
    better = whole.quality[1] - whole.quality[0]
    quality = (
        f"its quality is {100 * abs(better):.1f} points {'higher' if better > 0 else 'lower'}"
        if _surely(whole.quality_gap)
        else "no difference in quality is shown"
    )
    return f"{second[0].upper()}{second[1:]} {costs} {first}, and {quality}"


def _surely(gap: tuple[float, float]) -> bool:
    return gap[0] > 0 or gap[1] < 0


def _differences(sides: tuple[Side, Side], found: SideBySide) -> list[str]:
    """Each difference in a sentence with its interval, of all requests and of the workflows where one is shown."""
    second, whole = _called(sides)[1], found.whole
    told = [_cost_told(second, whole), _quality_told(second, whole)]
    for part in found.workflows:
        if len(found.workflows) > 1 and part.enough:
            inside = f"in {part.name} ({part.requests:,} requests) {second}"
            told += [_quality_told(inside, part)] if _surely(part.quality_gap) else []
            told += [_cost_told(inside, part)] if _surely(part.cost_gap) else []
    return [f"{one[0].upper()}{one[1:]}" for one in told]


def _cost_told(what: str, part: Part) -> str:
    gap = 1000 * (part.cost_usd[1] - part.cost_usd[0])
    both = f"{thousand(part.cost_usd[1])} instead of {thousand(part.cost_usd[0])} per 1,000 requests"
    if not part.enough:
        return f"{what} costs {both}; of {part.conversations:,} conversations no interval is given."
    span = f"95% {signed_money(1000 * part.cost_gap[0])} … {signed_money(1000 * part.cost_gap[1])}"
    more = f"{money(abs(gap))} {'less' if gap < 0 else 'more'}" if _surely(part.cost_gap) else "which may be chance"
    return f"{what} costs {both}: {more} ({span})."


def _quality_told(what: str, part: Part) -> str:
    gap = 100 * (part.quality[1] - part.quality[0])
    both = f"{percent(part.quality[1])} acceptable answers instead of {percent(part.quality[0])}"
    if not part.enough:
        return f"{what} gives {both}; of {part.conversations:,} conversations no interval is given."
    span = f"95% {signed_percent(part.quality_gap[0])} … {signed_percent(part.quality_gap[1])} points"
    better = (
        f"{abs(gap):.1f} points {'lower' if gap < 0 else 'higher'}"
        if _surely(part.quality_gap)
        else "which may be chance"
    )
    return f"{what} gives {both}: {better} ({span})."


def _chart(sides: tuple[Side, Side]) -> Chart | None:
    first, second = (side.document for side in sides)
    if first is None or second is None:
        return None
    both = (first, second)
    mark = " (simulated)" if first["simulated"] or second["simulated"] else ""
    return chart(
        "two-frontiers",
        lambda: frontier.two_frontiers(*both),
        lambda: Table(f"Both frontiers{mark}", *table("two_frontiers", both)),
    )


def _no_chart(sides: tuple[Side, Side]) -> str:
    """Why there is no chart of both, and what would give one."""
    old = [side.manifest.version for side in sides if side.document is None]
    if old:
        return f"No frontier of today's form is beside {' and '.join(old)}: training it again draws one."
    return "At least one of the two has no frontier: its log has too few test outcomes to measure one."


def _gaps(found: SideBySide) -> Table:
    def ends(part: Part, texts: tuple[str, str]) -> str:
        return " … ".join(texts) if part.enough else "too few"

    rows = [
        (
            f"{part.name} ({part.requests:,})",
            percent(part.quality[0]),
            percent(part.quality[1]),
            signed_percent(part.quality[1] - part.quality[0]),
            ends(part, (signed_percent(part.quality_gap[0]), signed_percent(part.quality_gap[1]))),
            thousand(part.cost_usd[0]),
            thousand(part.cost_usd[1]),
            signed_money(1000 * (part.cost_usd[1] - part.cost_usd[0])),
            ends(part, (signed_money(1000 * part.cost_gap[0]), signed_money(1000 * part.cost_gap[1]))),
        )
        for part in (found.whole, *found.workflows)
    ]
    headers = (
        "Requests", "Quality, first", "Second", "Difference, points", "95%", "USD per 1,000, first", "Second", "Difference",
        "95%",
    )  # fmt: skip
    return Table("Both bundles on the same requests, the second minus the first", headers, rows, 0)


def _shares(found: SideBySide) -> Table:
    shares = sorted(found.shares.items(), key=lambda one: -max(one[1]))
    rows = [(name, percent(first), percent(second), signed_percent(second - first)) for name, (first, second) in shares]
    return Table("Where requests go", ("Candidate", "First", "Second", "Difference, points"), rows)


def _setups(sides: tuple[Side, Side]) -> Table:
    """What they were made of, row by row."""
    told: dict[str, Callable[[Manifest], str]] = {
        "Version": lambda one: one.version,
        "Made": lambda one: one.created,
        "Log": lambda one: one.data_fingerprint[:12] + (" (simulated)" if one.simulated else ""),
        "Candidates": lambda one: ", ".join(candidate.name for candidate in one.candidates),
        "Reference": lambda one: one.reference,
        "Default point": lambda one: one.default_point,
        "Estimator": lambda one: one.head.estimator,
        "Calibration": lambda one: one.head.calibration,
        "Encoder": lambda one: one.encoder.name,
    }
    rows = [(name, *(tell(side.manifest) for side in sides)) for name, tell in told.items()]
    return Table("The two bundles", ("What", "First", "Second"), rows)


def _points(sides: tuple[Side, Side]) -> Table:
    """Operating points of the same name beside each other; on its own calibration part each."""
    names = list(dict.fromkeys(point.name for side in sides for point in side.manifest.operating_points))
    rows = []
    for name in names:
        row = [name]
        for side in sides:
            point = next((one for one in side.manifest.operating_points if one.name == name), None)
            proof = None if point is None else point.certificate
            row += [
                "no such point"
                if point is None
                else "not certified"
                if proof is None
                else f"at most {percent(proof.alpha)}",
                "" if proof is None else percent(proof.bound),
                "" if point is None else percent(point.saving),
            ]
        rows.append(row)
    headers = ("Point", "First may fail", "Bound", "Saving", "Second may fail", "Bound", "Saving")
    return Table("Operating points, each on its own calibration requests", headers, rows)
