"""A new candidate without a history: what to ask it, and the champion with its column once it has answered."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx

from serving.bundle.arrays import Bools
from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE
from serving.bundle.manifest import OPTIONAL_FILES, Bundle, Manifest, OperatingPoint, new_bundle, open_bundle, seal
from serving.decide.router import Router
from training.certify.tested import TESTED_HEAD
from training.config import Params
from training.dataset.fingerprints import SEEN, fingerprints, write_fingerprints
from training.dataset.inputs import Progress, silent
from training.dataset.volume import Volume, volume
from training.evaluate.evaluation import Evaluation
from training.extend.amounts import Amounts
from training.extend.fit import Ground, amounts, ground_of, new_column
from training.extend.gate import decided
from training.extend.graph import NewColumn, check_extension, extended
from training.extend.log import LEAST, ExtendError, Known, known_of
from training.extend.points import Used, calibration_data, points_of
from training.logs.outcomes import Outcomes
from training.publish.document import frontier_document, read_document, with_month, write_document
from training.publish.making import MAKING, of_addition, read_making, write_making
from training.publish.neighbours import write_neighbours_and
from training.publish.pages import of_report
from training.publish.promote import CURRENT, Promotion, make_current

_HEAD = "head.onnx"
# What is written anew, and what tells of the champion's own test part, which the new candidate has no outcome of.
_OF_TEST_PART = ("report.html", "card.md", "frontier.json", MAKING, "test_requests.csv")
_NOT_COPIED = (_HEAD, TESTED_HEAD, SEEN, *OPTIONAL_FILES, *_OF_TEST_PART)


@dataclass(frozen=True)
class Asked:
    """A log with the answers of the new candidate `entry`, as the champion in `root` sees it."""

    root: Path
    champion: Router
    heads: Mapping[str, bytes]
    entry: Candidate
    log: Known

    @property
    def judged(self) -> int:
        """How many judged answers of the new candidate the column may be fitted on."""
        return int((self.log.basis() & self.log.answered).sum())


@dataclass(frozen=True)
class Added:
    """The bundle with the new candidate: how many `probes` its column was fitted on, and on how many `fresh` requests its
    points were certified anew."""

    bundle: Bundle
    promotion: Promotion
    champion: Manifest
    probes: int
    fresh: int


def ask(
    table: Outcomes,
    name: str,
    params: Params,
    catalogue: Mapping[str, Candidate],
    *,
    out: Path,
    cache: Path,
    progress: Progress = silent,
) -> Asked:
    """The champion of `out` and the log as it sees it; raises ExtendError, or BundleError of a broken champion."""
    current = out / CURRENT
    if not (current.is_symlink() or current.exists()):
        raise ExtendError(
            f"{out} has no champion to add {name} to. `router-train run --data LOG --out {out}` trains the first bundle."
        )
    bundle = open_bundle(current)
    champion = Router(bundle, threads=params.embed.threads)
    if name in champion.candidates:
        raise ExtendError(
            f"{champion.manifest.version} has {name} already; it has {', '.join(champion.candidates)}. "
            "`router-train run` learns anew from all outcomes of it."
        )
    entry = catalogue.get(name)
    if entry is None or not entry.priced:
        missing = "is not in the catalogue" if entry is None else "has no price in the catalogue"
        raise ExtendError(
            f"{name} {missing}. Write a [[candidate]] with name, input_usd_per_mtok and output_usd_per_mtok into "
            "candidates.toml, or name the file with --catalogue."
        )
    progress("read the log as the champion does", None, None)
    heads = {file: bundle.read(file) for file in (_HEAD, TESTED_HEAD) if file in bundle.manifest.files}
    log = known_of(table, name, champion, params, catalogue, cache, progress)
    answers = int(log.matrix.attempted[:, -1].sum())
    if answers >= LEAST and not log.answered.any():
        raise ExtendError(
            f"the log has {answers} answers of {name}, and none of them was judged: give them a quality with --scores, "
            "--check or --judge."
        )
    return Asked(out, champion, heads, entry, log)


def add(asked: Asked, params: Params, *, promote: bool = True, progress: Progress = silent) -> Added:
    """Writes `root/<version>`, the champion with one more column, and makes it current if the gate lets it.

    Raises ExtendError where fewer than `LEAST` answers of it were judged, ParityError where the graph is not what was fitted.
    """
    champion, log, name = asked.champion, asked.log, asked.entry.name
    if asked.judged < LEAST:
        raise ExtendError(f"{asked.judged} answers of {name} were judged, and at least {LEAST} are needed.")
    started = datetime.now(UTC)
    version = f"{started:%Y%m%dT%H%M%S%f}-{log.fingerprint[:8]}"
    basis = log.basis()
    grounds = {file: ground_of(head, champion.manifest, log) for file, head in asked.heads.items()}
    ground = grounds[_HEAD]
    found = amounts(ground, asked.entry, log, basis)
    progress("certify with the new candidate", None, None)
    fresh = _used(ground, asked, found, log.fresh & ~log.tested, params)
    points = points_of(fresh, ground, name, params)
    with new_bundle(asked.root, version) as folder:
        progress("export", None, None)
        for file in champion.manifest.files:
            if file not in _NOT_COPIED:
                shutil.copy2(champion.bundle.path(file), folder / file)
        for file, head in asked.heads.items():
            column = new_column(grounds[file], log, found, basis)
            _write_head(folder / file, head, column, asked, params)
        write_fingerprints(folder, fingerprints(log.matrix.texts))
        _with_fingerprints_of(champion.bundle, folder)
        before = champion.neighbours
        known = np.isin(log.matrix.request_id, [] if before is None else list(before.ids))
        shown = log.matrix.one_of_each(log.groups, 2 * log.matrix.attempted[:, -1] + known)
        added = log.matrix.take(shown), log.inputs.embedding[shown], params.export.neighbours
        write_neighbours_and(folder, before, *added)
        manifest = _manifest(asked, version, started, found, points)
        document = frontier_document(manifest, _nothing_measured(asked))
        write_document(folder, document)
        manifest = manifest.model_copy(update={"metrics": with_month({}, document)})
        write_making(folder, of_addition(read_making(champion.bundle.folder), name, str(document["why_not"])))
        of_report.write(folder, manifest)
        (folder / "card.md").write_text(card(manifest, champion.manifest, asked), encoding="utf-8")
        seal(folder, manifest)
    bundle = open_bundle(asked.root / version)
    progress("compare with the champion", None, None)
    used = fresh or _used(ground, asked, found, ~log.tested, params)
    promotion = decided(asked.root, Router(bundle, threads=params.embed.threads), champion, used, params)
    if not promote and promotion.promoted:
        force = f"`router-train promote {version} --out {asked.root}` makes it current."
        promotion = replace(promotion, promoted=False, reason=f"It was only to be tried. {promotion.reason} {force}")
    if promotion.promoted:
        make_current(asked.root, version)
    return Added(bundle, promotion, champion.manifest, asked.judged, 0 if fresh is None else len(fresh.data))


def _used(ground: Ground, asked: Asked, found: Amounts, among: Bools, params: Params) -> Used | None:
    """The requests `among` (n,) that can be counted on; None without any."""
    data = calibration_data(ground, asked.entry, asked.log, found, np.asarray(among), params)
    return Used.of(data) if len(data) else None


def _write_head(path: Path, head: bytes, column: NewColumn, asked: Asked, params: Params) -> None:
    m, inputs = len(asked.champion.candidates), asked.log.inputs
    model = extended(head, column, m, len(SURFACE))
    onnx.save(model, path)
    feed = {"embedding": inputs.embedding, "features": inputs.sent}
    check_extension(head, path.read_bytes(), column, m, feed, len(SURFACE), params.export.tolerance)


def _with_fingerprints_of(champion: Bundle, folder: Path) -> None:
    """What the champion was made from is what the new bundle was made from, too."""
    if SEEN in champion.manifest.files:
        own, before = np.load(folder / SEEN, allow_pickle=False), np.load(champion.path(SEEN), allow_pickle=False)
        np.save(folder / SEEN, np.union1d(own, before), allow_pickle=False)


def _manifest(
    asked: Asked, version: str, started: datetime, found: Amounts, points: tuple[OperatingPoint, ...]
) -> Manifest:
    before, entry = asked.champion.manifest, asked.entry
    note = (
        f"{entry.name} was added to {before.version} without learning anew: its column was fitted on {asked.judged:,} judged "
        "answers, around what the others have in common; all else is that bundle's."
    )
    return before.model_copy(
        update={
            "version": version,
            "created": started.isoformat(timespec="seconds"),
            "data_fingerprint": asked.log.fingerprint,
            "candidates": (*before.candidates, entry),
            "cost_from": {**before.cost_from, entry.name: found.cost_from},
            "usual": {**before.usual, entry.name: found.usual},
            "head": before.head.model_copy(update={"learned_from": f"{before.head.learned_from} {note}".strip()}),
            "operating_points": points,
            "metrics": {},  # of the champion's test part the new candidate has no outcome
        }
    )


def _nothing_measured(asked: Asked) -> Evaluation:
    """What is known of the new bundle without a test part: the volume of the champion's log, or else of this one."""
    before = read_document(asked.champion.bundle.folder) or {}
    log = volume(asked.log.matrix) if before.get("log") is None else Volume(**before["log"])
    why_not = (
        f"{asked.entry.name} was added without learning anew, and no test request of "
        f"{asked.champion.manifest.version} has an outcome of it. `router-train run` on a log with its answers measures."
    )
    return Evaluation(test_requests=0, complete_requests=0, why_not=why_not, volume=log)


def card(manifest: Manifest, champion: Manifest, asked: Asked) -> str:
    """The bundle in a few lines of Markdown."""
    points = "\n".join(f"- {sentence(point, manifest)}" for point in manifest.operating_points)
    return (
        f"# {manifest.version}\n\n{champion.version} with {asked.entry.name} added. {manifest.head.learned_from}\n\n"
        f"The reference stays {manifest.reference}.\n\n{points}\n"
    )


def sentence(point: OperatingPoint, manifest: Manifest) -> str:
    """What is certified at a point, in one sentence."""
    new, known = manifest.candidates[-1].name, point.certificate
    if known is None:
        where = f"all requests go to {point.always}" if point.always else "it has no certificate"
        return f"{point.name}: {where}; nothing could be certified with {new} in the choice"
    how = (
        f"{new} is not in the choice, and the certificate is the champion's"
        if new in point.without
        else f"certified anew with {new} in the choice on {known.requests:,} requests"
    )
    return (
        f"{point.name}: {how}; at {1.0 - known.delta:.1%} confidence at most {known.alpha:.1%} fail where "
        f"{manifest.reference} would not have, saving {point.saving or 0.0:.1%}"
    )
