"""The promotion gate: which bundle is the champion, decided by comparing two bundles on the same test requests.

In a models folder `current` is the champion and `previous` the one before it, both symbolic links.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.bundle.atomic_write import switch_link
from serving.bundle.manifest import (
    MANIFEST,
    Bundle,
    BundleError,
    Manifest,
    new_bundle,
    open_bundle,
    seal,
    switch_current,
)
from serving.decide.router import Router
from training.certify.tested import as_tested
from training.errors import TrainingError
from training.publish.compare import Comparison, NotComparableError
from training.publish.document import at_another_point, read_document, router_line, with_month, write_document
from training.publish.pages import of_report

CURRENT = "current"
PREVIOUS = "previous"
# Between a version and the operating point that was made its default without training.
_AT = "-at-"


class PromotionError(TrainingError):
    """A bundle that cannot be made the champion; the message says why and what to do."""


@dataclass(frozen=True)
class Promotion:
    """Whether a bundle becomes the champion, and why; `comparison` is None where the two were not compared."""

    promoted: bool
    reason: str
    comparison: Comparison | None


def consider(root: Path, new: Router, compare_with: Callable[[Router], Comparison]) -> Promotion:
    """Whether the new bundle replaces `root/current`. `compare_with` measures it against a champion, or raises
    NotComparableError.

    The first bundle is promoted, and so is one whose champion cannot be loaded: nothing else could be served. Otherwise
    it has to be shown not to be worse, so a log that cannot show it promotes nothing. Each is compared by the head that
    has not seen its log's test part. A simulated log decides nothing about real traffic: a champion of a simulated log
    never blocks a bundle of a real one, and is never put in its place.
    """
    current = root / CURRENT
    if not (current.is_symlink() or current.exists()):
        return Promotion(True, f"It is the first bundle in {root}: there is no champion to compare it with.", None)
    try:
        champion = Router.load(current)
    except BundleError as error:
        return Promotion(True, f"THE CHAMPION CANNOT BE LOADED, so nothing was compared: {error}", None)
    name = champion.manifest.version
    force = f"`router-train promote {new.manifest.version} --out {root}` makes it current all the same."
    if champion.manifest.simulated and not new.manifest.simulated:
        reason = f"The champion {name} was trained on a simulated log, which says nothing about real traffic."
        return Promotion(True, reason, None)
    if new.manifest.simulated and not champion.manifest.simulated:
        reason = f"It was trained on a simulated log, the champion {name} on a real one, about which that says nothing."
        return Promotion(False, f"{reason} {force}", None)
    try:
        comparison = compare_with(as_tested(champion))
    except NotComparableError as error:
        mend = "Send a share of the traffic to all candidates (shadow requests), or give an evaluation run with --test."
        return Promotion(False, f"It cannot be compared with the champion {name}: {error}. {mend} {force}", None)
    reason = _figures(comparison, simulated=new.manifest.simulated)
    return Promotion(comparison.enough, reason if comparison.enough else f"{reason} {force}", comparison)


def on_less_evidence(root: Path, new: Manifest, judged: Mapping[str, float]) -> str | None:
    """Why a bundle may not follow the champion in `root` by itself: its reference is another one, of which less is known.

    `judged` are the effective outcomes of each candidate that the new bundle was learned from. None where there is no such
    reason: also where the champion cannot be loaded, or its log was a simulated one and the new one's is not.
    """
    champion = _opened(root / CURRENT)
    if champion is None or (champion.manifest.simulated and not new.simulated):
        return None
    before, known = champion.manifest.reference, judged.get(new.reference, 0.0)
    if new.reference == before or known >= judged.get(before, 0.0):
        return None
    return (
        f"Its reference would be {new.reference} instead of {before}, on less evidence: {known:,.0f} effective outcomes of it, "
        f"{judged[before]:,.0f} of {before}. What everything is measured against does not change by itself on less; "
        f"--set policy.reference={before} keeps it."
    )


def _figures(found: Comparison, *, simulated: bool) -> str:
    """The comparison in two sentences."""
    new, champion = found.new, found.champion
    requests = "complete " if found.method == "complete" else ""
    how = "" if found.method == "complete" else ", doubly robust estimates from the outcomes that were seen,"
    near = found.low >= -found.margin
    bound = f"the lower bound is {'not ' if near else ''}below {0 - found.margin:g} (tracking.margin)"
    if not near and found.high > 0:
        bound += "; more complete test requests would narrow the interval"
    return (
        f"On {found.requests:,} {requests}{'simulated ' if simulated else ''}test requests{how} its AIQ is {new.aiq:.4f} and "
        f"the champion's ({champion.version}) {champion.aiq:.4f}, a difference of {found.difference:+.4f} "
        f"(95% {found.low:+.4f} … {found.high:+.4f}): {bound}. At their operating points the quality is {new.quality:.1%} "
        f"for {1000 * new.cost_usd:.3f} USD per 1,000 requests, against {champion.quality:.1%} for "
        f"{1000 * champion.cost_usd:.3f}{': THE QUALITY THAT IS SERVED WOULD FALL' if found.worse_served else ''}."
    )


def version_at(root: Path, name: str) -> str | None:
    """The version that the link `root/name` points at, whether or not it is there; None without a link."""
    link = root / name
    return link.readlink().name if link.is_symlink() else None


def versions(root: Path) -> list[str]:
    """The names of the bundles' folders in `root`, whether or not they can be opened."""
    return sorted(path.parent.name for path in root.glob(f"[!.]*/{MANIFEST}") if not path.parent.is_symlink())


def make_current(root: Path, version: str) -> None:
    """Makes `root/version` the champion; the champion before it, if it can still be opened, becomes `previous`.

    Raises PromotionError where `current` is no link, which nothing here made and nothing here overwrites.
    """
    current = root / CURRENT
    if current.exists() and not current.is_symlink():
        raise PromotionError(f"{current} is not a symbolic link. Move it away, then `router-train promote {version}`.")
    before = version_at(root, CURRENT)
    if before is not None and before != version and _opened(root / before) is not None:
        switch_link(root, PREVIOUS, before)
    switch_current(root, version)


def _age(bundle: Bundle) -> tuple[str, str]:
    return bundle.manifest.created, bundle.folder.name


def promote(root: Path, version: str | None = None) -> Bundle:
    """Makes a bundle the champion, without a comparison; raises PromotionError, or BundleError if it cannot be served.

    `version` is the name of its folder; by default the newest bundle, which is not to be the champion already: going back is
    asked for by name.
    """
    current = version_at(root, CURRENT)
    known = versions(root)
    if version is None:
        opened = [bundle for name in known if name != current and (bundle := _opened(root / name)) is not None]
        if not opened:
            raise PromotionError(f"{root} has no bundle beside the current one. `router-train run` makes one.")
        newest = max(opened, key=_age)
        champion = _opened(root / current) if current is not None else None
        if champion is not None and _age(champion) > _age(newest):
            raise PromotionError(
                f"{current} is current, and the newest of {root}: name the version that is to be instead, or "
                "`router-train rollback` to the one before."
            )
        version = newest.folder.name
    if version not in known:
        raise PromotionError(f"{root} has no bundle {version!r}. `router-train bundles --out {root}` lists them.")
    if version == current:
        raise PromotionError(f"{version} is the current bundle of {root} already.")
    bundle = Router.load(root / version).bundle
    make_current(root, version)
    return bundle


def roll_back(root: Path) -> Bundle:
    """Makes the previous champion the champion again, and the other way round; raises as `promote`."""
    previous = version_at(root, PREVIOUS)
    if previous is None:
        raise PromotionError(f"{root} has no previous champion to go back to. `router-train promote` picks one.")
    return promote(root, previous)


def set_point(root: Path, name: str) -> Bundle:
    """Makes a bundle the champion that is the champion but for its default operating point, which is now `name`.

    A bundle is never changed: this is another one, with the same files, so that rolling back undoes it. Raises PromotionError.
    """
    current = version_at(root, CURRENT)
    if current is None:
        raise PromotionError(f"{root} has no current bundle. `router-train run` makes one.")
    before = open_bundle(root / current)
    points = {point.name: point for point in before.manifest.operating_points}
    if name not in points:
        raise PromotionError(f"{current} has no operating point {name!r}; it has {', '.join(points)}.")
    if name == before.manifest.default_point:
        raise PromotionError(f"{name} is the default operating point of {current} already.")
    version = f"{current.partition(_AT)[0]}{_AT}{name}"
    if version not in versions(root):
        manifest = before.manifest.model_copy(update={"version": version, "default_point": name})
        with new_bundle(root, version) as folder:
            for file in before.manifest.files:
                shutil.copy2(before.path(file), folder / file)
            if (document := read_document(before.folder)) is not None:
                document = at_another_point(document, manifest)
                write_document(folder, document)
                metrics = with_month(manifest.metrics, document)
                if (line := router_line(document)) is not None:
                    metrics |= {what: line[what] for what in ("quality", "cost_usd", "saving")}
                manifest = manifest.model_copy(update={"metrics": metrics})
            if not of_report.write(folder, manifest):  # the page of the former point would tell what is no longer so
                (folder / of_report.REPORT).unlink(missing_ok=True)
            seal(folder, manifest)
    make_current(root, version)
    return open_bundle(root / version)


def _opened(folder: Path) -> Bundle | None:
    try:
        return open_bundle(folder)
    except BundleError:
        return None
