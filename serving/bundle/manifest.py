"""The bundle: the folder that training writes and serving reads. JSON, ONNX and arrays; loading it runs no pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.bundle.atomic_write import remove_drafts, switch_link, written_folder
from serving.bundle.catalogue import Candidate

# A draft that nobody touched for so long, and nobody holds, was left by a process that was killed.
_STALE_SECONDS = 86_400.0
# Raise it when a bundle written before can no longer be read by this code, or the other way round.
FORMAT_VERSION = 8
MANIFEST = "manifest.json"
# What serving reads beside the manifest; a bundle may hold more (a report, a card).
REQUIRED_FILES = ("encoder.onnx", "head.onnx", "tokenizer.json")
# What it reads too, where it is there.
NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS = "neighbours.npz", "neighbours.json", "neighbours_texts.json"
OPTIONAL_FILES = (NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS)
# What a certificate's `workflows` call the requests without a tag.
NO_WORKFLOW = "(none)"
# The operating point that sends every request to the reference candidate.
ALWAYS_REFERENCE = "always-reference"


class Objective(StrEnum):
    """What a decision maximises for its cost: the chance of an acceptable answer, or its expected quality."""

    ACCEPTABLE = "acceptable"
    QUALITY = "quality"


class BundleError(ValueError):
    """A bundle that cannot be used; the message names the folder, the file, what is wrong and what to do."""


class _Frozen(BaseModel):
    # A knob may be infinite, which JSON has no number for: as a string it survives writing and reading.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class EncoderSpec(_Frozen):
    """Which encoder embeds; `max_tokens` is its window, `dim` the length of an embedding."""

    name: str
    source: str
    max_tokens: int = Field(gt=1)
    dim: int = Field(gt=0)


class HeadSpec(_Frozen):
    """What `head.onnx` predicts with: the estimator for tagged requests, and the one for requests without a tag.

    `learned_from` says in words which rows of the log it and the bundle's figures rest on. Where the log names no workflow,
    `kinds` are the clusters of prompts that stand for them; the graph tells a request's kind by itself.
    """

    estimator: str
    estimator_untagged: str
    calibration: str
    surface: tuple[str, ...]
    workflows: tuple[str, ...]
    learned_from: str = ""
    kinds: tuple[str, ...] = ()


class Novelty(_Frozen):
    """How unlike what was trained on a prompt has to be for the router to abstain, and how training prompts were spread.

    `head.onnx` gives a prompt's novelty, near 1 for training prompts, and its cosine similarity to `shares` many cluster
    centres of them. `threshold` is exceeded by few calibration prompts, `shares` are the clusters' shares in training.
    """

    threshold: float
    shares: tuple[float, ...] = Field(min_length=1)


class Usual(_Frozen):
    """What is usual of one candidate over the training requests: what a decision goes by that has nothing else.

    Means of its answers' `output_tokens` and of its calls' `cost_usd`; the 95th percentile of its latency in milliseconds,
    None where no latency was logged. Prompts are measured in counted tokens (`serving.bundle.request`): `input_ratio` is the
    candidate's own input tokens per counted one, `counted_tokens` the mean prompt, `longest` the longest that was seen.
    """

    output_tokens: float = Field(ge=0)
    cost_usd: float = Field(ge=0)
    latency_p95_ms: float | None = Field(default=None, ge=0)
    input_ratio: float = Field(gt=0)
    counted_tokens: float = Field(ge=0)
    longest: float = Field(ge=0)


class WorkflowBound(_Frozen):
    """A certified knob within one workflow: what was seen, and the upper bound for this workflow taken alone."""

    requests: int = Field(ge=0)
    violation_rate: float | None
    bound: float
    saving: float


class Certificate(_Frozen):
    """With confidence 1 - delta, P(the chosen candidate fails and the reference would not have) <= alpha.

    `bound` is the upper confidence bound that was compared with alpha, by `method`: "clopper-pearson" on independent requests
    with every outcome known, "clustered" where several are of one conversation, "weighted" where outcomes were seen by chance.
    `requests` are those it rests on, of so many `conversations`; of `complete` ones every outcome is known. `reweighted`:
    complete ones were of other workflows than the traffic, and were weighted to its. The saving's interval is a 95% bootstrap
    interval. The workflows' bounds hold one by one, not all at once.
    """

    alpha: float
    delta: float
    method: Literal["clopper-pearson", "clustered", "weighted"]
    requests: int
    effective_requests: float
    violation_rate: float
    bound: float
    saving_low: float
    saving_high: float
    workflows: dict[str, WorkflowBound]
    conversations: int = Field(default=0, ge=0)
    complete: int = Field(default=0, ge=0)
    reweighted: bool = False


class Estimated(_Frozen):
    """What a target without a certificate is estimated to give: a guess by what was learned, and no promise.

    At `knob` the heads expect `violation_rate`. The saving is the log's own, with its 95% interval; None where the log has too
    few outcomes of what would be chosen.
    """

    knob: float = Field(ge=0)
    violation_rate: float
    saving: float | None = None
    saving_low: float | None = None
    saving_high: float | None = None


class OperatingPoint(_Frozen):
    """A knob value and what it gave on the calibration data.

    `guard` names the candidate against which the knob counts failures, the reference; `always` one that is used for every
    request instead of a knob. Quality is the share of acceptable answers, saving is relative to sending
    everything to the reference candidate. `explore` is the share of requests that may go elsewhere to learn: the certificate
    has paid for it, its bound and this share together being at most alpha. A target that could not be certified has what is
    `estimated` of it. `without` names candidates that are not in the choice at this point, because its certificate is older
    than they are.
    """

    name: str
    quality_target: float | None = None
    knob: float = Field(ge=0)
    guard: str | None = None
    always: str | None = None
    # Written only where there are any: all other bundles read as they did before there was this field.
    without: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    explore: float = Field(default=0.0, ge=0, le=1)
    calibration_requests: int = Field(ge=0)
    quality: float | None = None
    cost_usd: float | None = None
    saving: float | None = None
    certificate: Certificate | None = None
    estimated: Estimated | None = Field(default=None, exclude_if=lambda found: found is None)

    @model_validator(mode="after")
    def _explores_what_is_set_aside(self) -> Self:
        known = self.certificate
        if known is not None and known.bound + self.explore > known.alpha + 1e-9:
            raise ValueError(f"bound {known.bound:g} and explore {self.explore:g} are more than alpha {known.alpha:g}")
        return self


class Manifest(_Frozen):
    """Everything about a bundle that is not a weight."""

    format_version: int
    version: str
    created: str
    data_fingerprint: str
    simulated: bool
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    cost_from: dict[str, str]
    usual: dict[str, Usual]
    reference: str
    acceptable: float
    objective: Objective
    graded: bool
    encoder: EncoderSpec
    head: HeadSpec
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    default_point: str
    knobs: tuple[float, ...]
    novelty: Novelty
    metrics: dict[str, Any]
    files: dict[str, str]

    @property
    def default(self) -> OperatingPoint:
        """The operating point for a request that asks for none."""
        return next(point for point in self.operating_points if point.name == self.default_point)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = {candidate.name for candidate in self.candidates}
        if len(names) != len(self.candidates):
            raise ValueError("two candidates have the same name")
        if self.cost_from.keys() != names:
            raise ValueError(f"cost_from is for {sorted(self.cost_from)}, the candidates are {sorted(names)}")
        if self.usual.keys() != names:
            raise ValueError(f"usual is of {sorted(self.usual)}, the candidates are {sorted(names)}")
        asked = ((point.always, point.guard, *point.without) for point in self.operating_points)
        named = {name for names_of_point in asked for name in names_of_point if name is not None}
        if any(self.reference in point.without for point in self.operating_points):
            raise ValueError(f"a point is without {self.reference}, which is the reference")
        if unknown := ({self.reference} | named) - names:
            raise ValueError(f"{sorted(unknown)} is no candidate; the candidates are {sorted(names)}")
        if guards := {point.guard for point in self.operating_points} - {None, self.reference}:
            raise ValueError(
                f"{sorted(map(str, guards))} is a point's guard; it can only be the reference, {self.reference}"
            )
        points = [point.name for point in self.operating_points]
        if self.default_point not in points:
            raise ValueError(f"default_point {self.default_point!r} is no operating point; these are {points}")
        if missing := set(REQUIRED_FILES) - self.files.keys():
            raise ValueError(f"files does not list {sorted(missing)}")
        if odd := [name for name in self.files if not name or name in (".", "..") or "/" in name or "\\" in name]:
            raise ValueError(f"files lists {sorted(odd)}, which are not names of files in the bundle's own folder")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. `content` holds what was read of it when it was opened, so that what was hashed is what is loaded."""

    folder: Path
    manifest: Manifest
    content: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes:
        """A file's bytes: as they were when the bundle was opened, or, of one that was not opened but made, from disk."""
        held = self.content.get(name)
        return self.path(name).read_bytes() if held is None else held


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_bundle(folder: Path) -> Bundle:
    """Checks a bundle's format version and the sha256 of each of its files; raises BundleError.

    Each file is read once, and what serving needs of them is kept for loading: a file that is switched meanwhile changes
    nothing.
    """
    folder = folder.resolve()
    path = folder / MANIFEST
    if not path.is_file():
        inside = sorted(one.parent.name for one in folder.glob(f"*/{MANIFEST}"))
        if inside:
            raise BundleError(f"{folder} is not a bundle, it holds some: give one of them, as {folder / inside[0]}")
        near = get_close_matches(folder.name, [one.parent.name for one in folder.parent.glob(f"*/{MANIFEST}")], 1)
        meant = f" Did you mean {folder.parent / near[0]}?" if near else ""
        no = f"{folder} is not a bundle: it has no {MANIFEST}."
        raise BundleError(f"{no}{meant} `make train` writes one to models/current.")
    document = path.read_bytes()
    try:
        manifest = Manifest.model_validate_json(document)
    except ValidationError as error:
        version = _format_version(document)
        if version not in (None, FORMAT_VERSION):
            raise BundleError(_wrong_version(path, version)) from error
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise BundleError(f"{path}: {where}: {first['msg']}. Train again, or restore the file.") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(_wrong_version(path, manifest.format_version))
    content = {}
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file} is missing from the bundle. Copy the whole folder, or train again.")
        data = file.read_bytes()
        if name in REQUIRED_FILES + OPTIONAL_FILES:
            content[name] = data
        if (arrived := hashlib.sha256(data).hexdigest()) != expected:
            raise BundleError(
                f"{file} has sha256 {arrived[:12]}…, the manifest says {expected[:12]}…: the file was changed or cut "
                f"short. Copy the bundle again, or train again."
            )
    return Bundle(folder, manifest, content)


def _wrong_version(path: Path, version: object) -> str:
    return (
        f"{path}: format_version is {version}, this code reads {FORMAT_VERSION}. Train again with this version, or "
        f"serve the bundle with the version that wrote it."
    )


def _format_version(document: bytes) -> object:
    class Header(BaseModel):
        format_version: int | None = None

    try:
        return Header.model_validate_json(document).format_version
    except ValidationError:
        return None


@contextmanager
def new_bundle(root: Path, version: str) -> Iterator[Path]:
    """A folder for a bundle's files, which becomes `root/version` when the block ends; the block's last act is to `seal` it.

    It is renamed into place when all of it is there, so that a reader never sees half a bundle. Raises BundleError.
    """
    final = root / version
    if final.exists():
        raise BundleError(f"{final} exists already; a bundle is never overwritten. Remove it or use another version.")
    remove_drafts(root, older=_STALE_SECONDS)
    with written_folder(final) as folder:
        yield folder


def seal(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, with the sha256 of every other file of the folder."""
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    sealed = manifest.model_copy(update={"files": hashes})
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=2), encoding="utf-8")


def switch_current(root: Path, version: str) -> None:
    """Points `root/current`, which is served, at `root/version`."""
    switch_link(root, "current", version)
