"""The parameters of every stage, read from params.toml into frozen dataclasses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from training.errors import TrainingError

DEFAULTS = Path(__file__).with_name("params.toml")


_RANGES = {
    "simulate.requests": (1, 10_000_000),
    "split.train": (0.05, 0.9),
    "split.calibration": (0.05, 0.9),
    "judge.max_output_tokens": (16, 100_000),
    "judge.attempts": (1, 20),
    "judge.parallel": (1, 64),
    "judge.timeout_s": (1.0, 3600.0),
    "judge.wait_s": (0.0, 60.0),
    "label.acceptable": (0.0, 1.0),
    "fit.folds": (2, 50),
    "policy.quality_target": (0.0, 1.0),
    "policy.delta": (1e-6, 0.5),
    "policy.knob_steps": (3, 10_000),
    "policy.certificate_knobs": (3, 10_000),
    "evaluate.resamples": (10, 100_000),
}


class ConfigError(TrainingError):
    """A parameter that does not exist or has the wrong type; the message names it and what there is."""


@dataclass(frozen=True)
class Simulate:
    requests: int
    days: float
    seed: int
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Splitting:
    method: Literal["auto", "time", "random"]
    train: float
    calibration: float
    seed: int


@dataclass(frozen=True)
class Embed:
    encoder: Literal["auto", "static", "transformer"]
    source: str
    static_dim: int
    static_max_tokens: int
    transformer_max_tokens: int
    threads: int


@dataclass(frozen=True)
class Label:
    acceptable: float


@dataclass(frozen=True)
class Costs:
    shared_penalty: float
    own_penalty: float
    assumed_output_tokens: float


@dataclass(frozen=True)
class Fit:
    estimators: tuple[str, ...]
    blend: bool
    blend_errors: float
    blend_equal: float
    folds: int
    seed: int
    table_strength: tuple[float, ...]
    clusters: int
    neighbours: int
    low_rank: tuple[int, ...]
    low_rank_penalty: tuple[float, ...]
    shared_penalty: float
    own_penalty: tuple[float, ...]
    tag_scale: float
    novelty_clusters: int
    logistic_c: float
    weight_clip: float
    trees: int
    leaves: int
    learning_rate: float
    tree_dims: int


@dataclass(frozen=True)
class Calibrate:
    method: Literal["auto", "none", "sigmoid", "isotonic"]


@dataclass(frozen=True)
class PolicyParams:
    reference: str
    objective: Literal["acceptable", "quality"]
    quality_target: float
    targets: tuple[float, ...]
    delta: float
    knob_steps: int
    certificate_knobs: int
    novel_share: float
    minimum_requests: int


@dataclass(frozen=True)
class Export:
    tolerance: float


@dataclass(frozen=True)
class Evaluate:
    resamples: int
    seed: int
    splits: bool
    split_estimators: tuple[str, ...]


@dataclass(frozen=True)
class Tracking:
    uri: str
    artifacts: str
    experiment: str
    model: str
    margin: float
    minimum_requests: int


@dataclass(frozen=True)
class Judge:
    max_output_tokens: int
    attempts: int
    parallel: int
    timeout_s: float
    wait_s: float
    seed: int


@dataclass(frozen=True)
class Params:
    """All stages. `flat()` gives {"stage.key": value} for tracking."""

    simulate: Simulate
    split: Splitting
    embed: Embed
    label: Label
    costs: Costs
    fit: Fit
    calibrate: Calibrate
    policy: PolicyParams
    export: Export
    evaluate: Evaluate
    tracking: Tracking
    judge: Judge

    def flat(self) -> dict[str, Any]:
        return {f"{stage}.{key}": value for stage, part in asdict(self).items() for key, value in part.items()}


def load_params(path: Path = DEFAULTS, overrides: Sequence[str] = ()) -> Params:
    """Parameters from a TOML file, then `overrides` of the form "stage.key=value"; raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    stages = get_type_hints(Params)
    for stage, part in values.items():
        _known(stage, stages, "stage", str(path))
        if not isinstance(part, Mapping):
            raise ConfigError(f"{path}: {stage} is {part!r}; a table is expected")
    for override in overrides:
        name, equals, text = override.partition("=")
        stage, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {override!r}: expected stage.key=value, for example policy.quality_target=0.97")
        _known(stage, stages, "stage", override)
        _known(key, get_type_hints(stages[stage]), f"parameter of {stage}", override)
        values.setdefault(stage, {})[key] = _parse(text.strip(), get_type_hints(stages[stage])[key])
    missing = [stage for stage in stages if stage not in values]
    if missing:
        raise ConfigError(f"{path}: no [{missing[0]}] table")
    built = Params(**{stage: _build(kind, values[stage], f"{path}: {stage}") for stage, kind in stages.items()})
    flat = built.flat()
    for name, (low, high) in _RANGES.items():
        if not low <= flat[name] <= high:
            raise ConfigError(f"{path}: {name} is {flat[name]!r}; it has to lie between {low} and {high}")
    return built


def _known(name: str, among: Mapping[str, Any], kind: str, where: str) -> None:
    if name not in among:
        raise ConfigError(f"{where}: {name!r} is no {kind}; there are {', '.join(among)}")


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    for key in values:
        _known(key, hints, "parameter", where)
    missing = [field.name for field in fields(kind) if field.name not in values]
    if missing:
        raise ConfigError(f"{where}: {missing[0]} is missing")
    return kind(**{key: _checked(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def _parse(text: str, kind: Any) -> Any:
    """A command-line value as TOML reads it; bare words are strings, and a,b,c is a list where one is wanted."""
    if get_origin(kind) is tuple and not text.startswith("["):
        text = (
            "[" + ",".join(repr(part.strip()) if get_args(kind)[0] is str else part for part in text.split(",")) + "]"
        )
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(value: Any, kind: Any, where: str) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{where} is {value!r}; it is one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {value!r}; a list is expected")
        return tuple(_checked(item, get_args(kind)[0], where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} is {value!r}; {kind.__name__} is expected")
    return value
