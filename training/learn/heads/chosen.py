"""What a run selected, and heads that are fitted as it was selected before: no other estimator is tried.

The chosen estimators are fitted on all rows, and where there is a calibration, out of fold before, for it alone; a blend keeps
its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, get_args

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.encoders import Kind
from training.dataset.kinds import Kinds
from training.engine.engine import Engine, Progress, silent
from training.engine.local import HERE
from training.errors import TrainingError
from training.learn.estimators.base import Factory, NotTrainableError
from training.learn.estimators.blend import Blend, fit_from, takes_sums
from training.learn.heads.calibrate import METHODS, Uncalibrated, fit_calibrator
from training.learn.heads.out_of_fold import by_fold, learned_near, out_of_fold_of_all
from training.learn.heads.select import Head, Score
from training.learn.training_data import TrainingData
from training.measure.metrics import brier, expected_calibration_error, of_cells


class ChoiceError(TrainingError):
    """Choices of an earlier run that cannot be kept: says which, and what to do."""


@dataclass(frozen=True)
class HeadChoice:
    """What one head is made of: estimators by the names of their settings (`registry.variants`) with the weights of a blend,
    one alone at 1; and the method of its calibration. `selected_by` is what it was selected by then."""

    members: Mapping[str, float]
    calibrator: str
    selected_by: str

    @classmethod
    def of(cls, head: Head) -> Self:
        estimator = head.estimator
        members = dict(estimator.weights) if isinstance(estimator, Blend) else {head.name: 1.0}
        return cls(members, head.calibrator.name, head.selected_by)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """From JSON; raises ValueError, KeyError or TypeError."""
        members = {str(name): float(weight) for name, weight in told["members"].items()}
        if not members or not all(0 < one < math.inf for one in members.values()) or told["calibrator"] not in METHODS:
            raise ValueError(f"no head has the members {members} and the calibration {told['calibrator']!r}")
        return cls(members, told["calibrator"], str(told["selected_by"]))

    def written(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def said(self) -> str:
        return ", ".join(f"{name} {weight:.2f}" if weight < 1 else name for name, weight in self.members.items())


@dataclass(frozen=True)
class PairChoice:
    """Of both heads for one target; `untagged` is None where one head is both."""

    tagged: HeadChoice
    untagged: HeadChoice | None

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        untagged = told["untagged"]
        return cls(HeadChoice.read(told["tagged"]), None if untagged is None else HeadChoice.read(untagged))

    def written(self) -> dict[str, Any]:
        return {
            "tagged": self.tagged.written(),
            "untagged": None if self.untagged is None else self.untagged.written(),
        }

    def without_tags(self) -> HeadChoice:
        """What serves requests without a tag; raises ChoiceError where nothing was selected for them."""
        if self.untagged is None:
            raise ChoiceError(
                "the log names workflows, which the log that the choices are from did not: nothing was selected for requests "
                "without a tag. Train on everything, with selection: router-train run --data OLD --data NEW"
            )
        return self.untagged


@dataclass(frozen=True)
class Choices:
    """All that a run selected: of each target, the kinds of work that stand for workflows, and the kind of encoder.

    `quality` and `violation` are None where there was no such head. `encoder_sha256` is the encoder's fingerprint. `bundle` and
    `created` are of the run that selected.
    """

    acceptable: PairChoice
    quality: PairChoice | None
    violation: PairChoice | None
    kinds: Kinds | None
    encoder: Kind
    encoder_sha256: str
    bundle: str
    created: str

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """From JSON; raises ValueError, KeyError or TypeError."""
        kinds, encoder = told["kinds"], told["encoder"]
        if encoder not in get_args(Kind):
            raise ValueError(f"{encoder!r} is no kind of encoder")
        quality, violation = told["quality"], told["violation"]
        return cls(
            acceptable=PairChoice.read(told["acceptable"]),
            quality=None if quality is None else PairChoice.read(quality),
            violation=None if violation is None else PairChoice.read(violation),
            kinds=None
            if kinds is None
            else Kinds(tuple(map(str, kinds["names"])), np.array(kinds["centres"], dtype=np.float32)),
            encoder=encoder,
            encoder_sha256=str(told["encoder_sha256"]),
            bundle=str(told["bundle"]),
            created=str(told["created"]),
        )

    def written(self) -> dict[str, Any]:
        """As JSON; float32 numbers come back as they were."""
        kinds = self.kinds
        return {
            "acceptable": self.acceptable.written(),
            "quality": None if self.quality is None else self.quality.written(),
            "violation": None if self.violation is None else self.violation.written(),
            "kinds": None if kinds is None else {"names": list(kinds.names), "centres": kinds.centres.tolist()},
            "encoder": self.encoder,
            "encoder_sha256": self.encoder_sha256,
            "bundle": self.bundle,
            "created": self.created,
        }

    def require(self, *, graded: bool, workflows: bool) -> None:
        """Raises ChoiceError where they do not fit a log: whether its quality is more than 0 or 1, and it names workflows."""
        anew = "Train on everything, with selection: router-train run --data OLD --data NEW"
        if graded and self.quality is None:
            raise ChoiceError(
                "the log has quality between 0 and 1, and the log that the choices are from had 0 and 1 alone: nothing was "
                f"selected to estimate it. {anew}"
            )
        if workflows and self.kinds is not None:
            raise ChoiceError(
                "the log names workflows, and the choices have kinds of work in their place, found by clustering prompts: "
                f"{', '.join(self.kinds.names)}. {anew}, or leave the workflow out"
            )

    @property
    def said(self) -> str:
        return f"the choices of {self.bundle} ({self.created}) were kept, nothing was selected: {self.acceptable.tagged.said}"


def fit_chosen(
    data: TrainingData,
    factories: Mapping[str, Factory],
    choice: HeadChoice,
    engine: Engine = HERE,
    stage: str = "fit",
    progress: Progress = silent,
) -> Head:
    """The head of a choice, fitted and calibrated on these rows; `factories` are all settings by name.

    Raises ChoiceError for a setting that there is not, and NotTrainableError where a member cannot learn.
    """
    if unknown := [name for name in choice.members if name not in factories]:
        raise ChoiceError(
            f"{unknown[0]!r} was chosen before and is none of the estimators and settings of this run "
            f"({', '.join(factories)}). Give the parameters that it was chosen with, or select anew: router-train run on "
            "all of the log"
        )
    members = {name: factories[name] for name in choice.members}
    single = len(choice.members) == 1
    name = next(iter(choice.members)) if single else Blend.name
    factory: Factory = factories[name] if single else partial(Blend, factories, choice.members)
    selected_by = f"{choice.selected_by}, before; kept"
    if choice.calibrator == Uncalibrated.name:
        # Nothing is selected or calibrated by what it would say of folds that it has not seen.
        return Head(name, factory, factory().fit(data.inputs, *data.taught()), Uncalibrated(), (), selected_by)
    sums = by_fold(data, engine) if any(takes_sums(factory()) for factory in members.values()) else None
    apart = {} if sums is None else {int(fold): sums.without(place) for place, fold in enumerate(np.unique(data.folds))}
    found: dict[str, Floats] = {}
    near = learned_near(members, data)
    for member, prediction in out_of_fold_of_all(members, data, apart, engine, near, stage, progress).items():
        if isinstance(prediction, NotTrainableError):
            raise prediction
        found[member] = prediction
    mixed = np.asarray(sum(choice.members[member] * prediction for member, prediction in found.items()))
    if not single:
        found[Blend.name] = mixed
    calibrator = fit_calibrator(choice.calibrator, mixed, data.labels, data.weights, data.folds, data.standing)
    whole = None if sums is None else sums.all()
    estimator = fit_from(factory(), data.inputs, *data.taught(), whole, near, name)
    scores = tuple(_score(which, factories, prediction, data) for which, prediction in found.items())
    return Head(name, factory, estimator, calibrator, scores, selected_by)


def _score(name: str, factories: Mapping[str, Factory], prediction: Floats, data: TrainingData) -> Score:
    """Out of fold; its AIQ is not measured, for nothing is compared by it."""
    seen = np.isfinite(data.labels) & (data.weights > 0)
    p, y = np.clip(prediction[seen], 0, 1), data.labels[seen]
    complexity = Blend.complexity if name == Blend.name else factories[name]().complexity
    counts = of_cells(data.standing, seen)
    ece = expected_calibration_error(p, y, standing=counts)
    return Score(name, complexity, brier=brier(p, y, counts), ece=ece)
