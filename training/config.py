"""The parameters of every stage, read from params.toml into frozen dataclasses that pydantic checks."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, PydanticCustomError, ValidationError

from training.errors import TrainingError

# Where a quality is from, the surer first: somebody's verdict, as where nothing is said; or what only hints at a bad answer.
JUDGEMENTS: tuple[str, ...] = ("judged", "thumb")
WEAK: tuple[str, ...] = ("schema", "empty", "cut", "switched", "retried")
DEFAULTS = Path(__file__).with_name("params.toml")

_CONFIG = ConfigDict(extra="forbid")
# Where pydantic would say what Python expects instead of what TOML does.
_EXPECTED = {"tuple_type": "it has to be a list", "dataclass_type": "it has to be a table"}


class ConfigError(TrainingError):
    """A parameter that does not exist or has the wrong type; the message names it and what there is."""


def _between(low: float, high: float) -> AfterValidator:
    def check(value: float) -> float:
        if not low <= value <= high:
            raise PydanticCustomError("range", "it has to lie between {low} and {high}", {"low": low, "high": high})
        return value

    return AfterValidator(check)


_Share = Annotated[StrictFloat, _between(0.0, 1.0)]
_PartShare = Annotated[StrictFloat, _between(0.05, 0.9)]


@dataclass(frozen=True, config=_CONFIG)
class Simulate:
    requests: Annotated[StrictInt, _between(1, 10_000_000)]
    days: StrictFloat
    seed: StrictInt
    candidates: tuple[StrictStr, ...]
    shadow_share: _Share
    judged_share: _Share


@dataclass(frozen=True, config=_CONFIG)
class Splitting:
    method: Literal["auto", "time", "random"]
    train: _PartShare
    calibration: _PartShare
    seed: StrictInt


@dataclass(frozen=True, config=_CONFIG)
class Embed:
    encoder: Literal["auto", "static", "transformer"]
    source: StrictStr
    static_dim: StrictInt
    static_max_tokens: StrictInt
    transformer_max_tokens: StrictInt
    threads: StrictInt


@dataclass(frozen=True, config=_CONFIG)
class Label:
    acceptable: _Share


@dataclass(frozen=True, config=_CONFIG)
class Signals:
    schema: _Share
    empty: _Share
    cut: _Share
    retried: _Share
    switched: _Share


@dataclass(frozen=True, config=_CONFIG)
class Costs:
    shared_penalty: StrictFloat
    own_penalty: StrictFloat
    assumed_output_tokens: StrictFloat


@dataclass(frozen=True, config=_CONFIG)
class Fit:
    estimators: tuple[StrictStr, ...]
    blend: StrictBool
    blend_errors: StrictFloat
    blend_equal: StrictFloat
    few_outcomes: StrictFloat
    few_estimators: tuple[StrictStr, ...]
    unseen_estimators: tuple[StrictStr, ...]
    violation_estimators: tuple[StrictStr, ...]
    folds: Annotated[StrictInt, _between(2, 50)]
    seed: StrictInt
    table_strength: tuple[StrictFloat, ...]
    additive_strength: tuple[StrictFloat, ...]
    clusters: StrictInt
    most_kinds: StrictInt
    name_kinds: StrictBool
    neighbours: StrictInt
    low_rank: tuple[StrictInt, ...]
    low_rank_penalty: tuple[StrictFloat, ...]
    shared_penalty: StrictFloat
    own_penalty: tuple[StrictFloat, ...]
    tag_scale: StrictFloat
    novelty_clusters: StrictInt
    logistic_c: StrictFloat
    weight_clip: StrictFloat
    half_life_days: Annotated[StrictFloat, _between(0.0, 1e6)]
    trees: StrictInt
    leaves: StrictInt
    learning_rate: StrictFloat
    tree_dims: StrictInt


@dataclass(frozen=True, config=_CONFIG)
class Calibrate:
    method: Literal["auto", "none", "sigmoid", "isotonic"]


@dataclass(frozen=True, config=_CONFIG)
class PolicyParams:
    reference: StrictStr
    objective: Literal["acceptable", "quality"]
    quality_target: _Share
    targets: tuple[StrictFloat, ...]
    delta: Annotated[StrictFloat, _between(1e-6, 0.5)]
    explore: Annotated[StrictFloat, _between(0.0, 0.9)]
    knob_steps: Annotated[StrictInt, _between(3, 10_000)]
    certificate_knobs: Annotated[StrictInt, _between(3, 10_000)]
    novel_share: StrictFloat
    cross_fit_below: Annotated[StrictInt, _between(0, 10**9)]
    minimum_requests: StrictInt
    uncertified: Literal["reference", "estimated"]


@dataclass(frozen=True, config=_CONFIG)
class Scale:
    core_train: Annotated[StrictInt, _between(100, 10**9)]
    core_measured: Annotated[StrictInt, _between(100, 10**9)]
    floor: Annotated[StrictInt, _between(1, 10**9)]
    part_rows: Annotated[StrictInt, _between(100, 10_000_000)]


@dataclass(frozen=True, config=_CONFIG)
class Since:
    keep: StrictBool


@dataclass(frozen=True, config=_CONFIG)
class Export:
    tolerance: StrictFloat
    neighbours: Annotated[StrictInt, _between(0, 1_000_000)]


@dataclass(frozen=True, config=_CONFIG)
class Report:
    requests_a_month: Annotated[StrictFloat, _between(0, 1e12)]


@dataclass(frozen=True, config=_CONFIG)
class Evaluate:
    resamples: Annotated[StrictInt, _between(10, 100_000)]
    seed: StrictInt
    splits: StrictBool
    split_estimators: tuple[StrictStr, ...]


@dataclass(frozen=True, config=_CONFIG)
class Tracking:
    uri: StrictStr
    artifacts: StrictStr
    experiment: StrictStr
    model: StrictStr
    margin: StrictFloat
    minimum_requests: StrictInt


@dataclass(frozen=True, config=_CONFIG)
class Judge:
    max_output_tokens: Annotated[StrictInt, _between(16, 100_000)]
    attempts: Annotated[StrictInt, _between(1, 20)]
    parallel: Annotated[StrictInt, _between(1, 64)]
    timeout_s: Annotated[StrictFloat, _between(1.0, 3600.0)]
    wait_s: Annotated[StrictFloat, _between(0.0, 60.0)]
    seed: StrictInt


@dataclass(frozen=True, config=_CONFIG)
class Plan:
    certify_share: Annotated[StrictFloat, _between(0.1, 1.0)]
    draws: Annotated[StrictInt, _between(1, 10_000)]


@dataclass(frozen=True, config=_CONFIG)
class Replay:
    max_output_tokens: Annotated[StrictInt, _between(1, 1_000_000)]
    attempts: Annotated[StrictInt, _between(1, 20)]
    parallel: Annotated[StrictInt, _between(1, 256)]
    timeout_s: Annotated[StrictFloat, _between(1.0, 3600.0)]
    wait_s: Annotated[StrictFloat, _between(0.0, 60.0)]


@dataclass(frozen=True, config=_CONFIG)
class Params:
    """All stages. `flat()` gives {"stage.key": value} for tracking."""

    simulate: Simulate
    split: Splitting
    embed: Embed
    label: Label
    signals: Signals
    costs: Costs
    fit: Fit
    calibrate: Calibrate
    policy: PolicyParams
    scale: Scale
    since: Since
    export: Export
    report: Report
    evaluate: Evaluate
    tracking: Tracking
    judge: Judge
    plan: Plan
    replay: Replay

    def flat(self) -> dict[str, Any]:
        return {f"{stage}.{key}": value for stage, part in asdict(self).items() for key, value in part.items()}


_STAGES = get_type_hints(Params)


def load_params(path: Path = DEFAULTS, overrides: Sequence[str] = ()) -> Params:
    """Parameters from a TOML file, then `overrides` of the form "stage.key=value"; raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    set_by: dict[tuple[str, str], str] = {}
    for override in overrides:
        stage, key, value = _override(override)
        set_by[stage, key] = f"--set {override}"
        table = values.setdefault(stage, {})
        if isinstance(table, dict):  # what is no table is told of below
            table[key] = value
    try:
        return TypeAdapter(Params).validate_python(values)
    except ValidationError as error:
        told = [(set_by.get(_place(one), str(path)), _explained(one)) for one in error.errors()]
        raise ConfigError("\n".join(f"{by}: {what}" for by, what in told)) from None


def from_flat(values: Mapping[str, Any]) -> Params:
    """Parameters from {"stage.key": value}, as `Params.flat` gives them; raises ConfigError."""
    nested: dict[str, dict[str, Any]] = {stage: {} for stage in _STAGES}
    for name, value in values.items():
        stage, _, key = name.partition(".")
        nested.setdefault(stage, {})[key] = value
    try:
        return TypeAdapter(Params).validate_python(nested)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(one) for one in error.errors())) from None


def _override(text: str) -> tuple[str, str, Any]:
    """Stage, key and value of "stage.key=value"."""
    name, equals, value = text.partition("=")
    stage, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"--set {text!r}: expected stage.key=value, for example policy.quality_target=0.97")
    if stage not in _STAGES:
        raise ConfigError(f"{text}: {_unknown(stage, 'stage', _STAGES)}")
    kinds = get_type_hints(_STAGES[stage])
    if key not in kinds:
        raise ConfigError(f"{text}: {_unknown(key, f'parameter of {stage}', kinds)}")
    return stage, key, _parsed(value.strip(), several=get_origin(kinds[key]) is tuple)


def _parsed(text: str, *, several: bool) -> Any:
    """A command-line value as TOML reads it; bare words are strings, and a,b,c is a list where `several` are wanted."""
    if several and not text.startswith("["):
        return [_parsed(part.strip(), several=False) for part in text.split(",")]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _place(error: ErrorDetails) -> tuple[str, str]:
    """The stage and the parameter that an error is about."""
    stage, *rest = map(str, error["loc"])
    return stage, rest[0] if rest else ""


def _explained(error: ErrorDetails) -> str:
    """Which parameter it is about, what arrived, and what was expected."""
    stage, *rest = map(str, error["loc"])
    if error["type"] == "missing":
        return f"{stage}: {rest[0]} is missing" if rest else f"no [{stage}] table"
    if error["type"] == "unexpected_keyword_argument":
        if not rest:
            return _unknown(stage, "stage", _STAGES)
        return f"{stage}: {_unknown(rest[0], 'parameter', (field.name for field in fields(_STAGES[stage])))}"
    message = error["msg"].replace("Input should be", "it has to be")
    return f"{'.'.join([stage, *rest[:1]])} is {error['input']!r}; {_EXPECTED.get(error['type'], message)}"


def _unknown(name: str, kind: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(name, names, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{name!r} is no {kind}; {meant}there are {', '.join(names)}"
