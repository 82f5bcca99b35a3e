"""The options of `router-train` that several commands take, each said once; those on a log are one group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from serving.bundle.catalogue import Candidate
    from training.config import Params

_log = partial(typer.Option, rich_help_panel="The log")
_quality = partial(typer.Option, rich_help_panel="Its quality, from elsewhere")
_privacy = partial(typer.Option, rich_help_panel="Personal data")
_settings = partial(typer.Option, rich_help_panel="Settings")

ModelsOption = Annotated[Path, typer.Option(help="The folder of the bundles.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")]
TestOption = Annotated[list[str] | None, typer.Option(help="A held-out log, instead of a split of the data.")]
TrackOption = Annotated[bool, typer.Option(help="Move MLflow's aliases as well.")]
CatalogueOption = Annotated[
    Path, _settings(help="Your candidates' prices, limits and capabilities; they add to the shipped ones.")
]
CacheOption = Annotated[Path, _settings(help="Encoders, embeddings, downloads and grades, kept between runs.")]
PickleOption = Annotated[
    bool, _log("--allow-pickle", help="Read pickles, with the classes of a pandas table allowed and nothing else.")
]
ScoresOption = Annotated[
    Sequence[Path],
    _quality(
        help="Scores (CSV, JSONL, Parquet, or langfuse: for a project's), joined on request, observation, trace or session "
        "id. May be repeated."
    ),
]
ScoreRuleOption = Annotated[
    Sequence[str],
    _quality(
        help="How scores become quality: unit, boolean, thumbs, stars, ten, percent, minmax:WORST:BEST, "
        "categorical:LABEL=QUALITY,... One for all, or one per --scores. Default: unit."
    ),
]
ScoreNameOption = Annotated[str | None, _quality(help="The name of the scores to use, where there are several.")]
CheckOption = Annotated[
    Sequence[str],
    _quality(
        help="[WORKFLOW=]CHECK of logged answers without a quality: json, json_schema:FILE, exact, regex:PATTERN, "
        "numeric or numeric:TOLERANCE, answered. May be repeated."
    ),
]
JudgeOption = Annotated[
    str | None, _quality(help="An LLM, named as LiteLLM does, that grades logged answers without a quality, each once.")
]
JudgeBudgetOption = Annotated[float | None, _quality(help="What --judge may spend, in USD.")]
JudgePriceOption = Annotated[
    str | None, _quality(help="INPUT:OUTPUT, USD per million tokens, where LiteLLM's price map does not know it.")
]


def _memory_gb(text: str) -> float:
    from training.logs.stored.memory import MemoryTooSmallError, given_gb

    try:
        return given_gb(text)
    except MemoryTooSmallError as error:
        raise typer.BadParameter(str(error)) from None


MemoryOption = Annotated[
    float | None,
    _settings(
        parser=_memory_gb,
        metavar="FLOAT",
        help="How much memory to use, in GB; a log that takes more is read from disk. It never changes what is learned: "
        "parameters of the stage scale do. Default: 3/4 of what is free.",
    ),
]
SinceOption = Annotated[
    Path | None,
    _settings(
        help="Add the log's rows to what the run kept that made this bundle, and learn anew with its choices: nothing is "
        "selected, and no text of then is needed. Of a folder of bundles: to the newest that something is kept of."
    ),
]
ChoicesOption = Annotated[
    Path | None,
    _settings(help="Select nothing: keep to what the run selected that made this bundle. --since does too."),
]
ClusterOption = Annotated[
    str | None,
    _settings(
        help="Work on a Dask cluster: tcp://HOST:PORT or tls://HOST:PORT of its scheduler, or local:N for N workers on this "
        "machine. The bundle is the same."
    ),
]
ClusterFolderOption = Annotated[
    Path | None,
    _settings(
        help="A folder that all machines of the cluster have at the same path, for what they share while the run lasts. "
        "Default: cluster below --cache."
    ),
]
HERE = Path()
_HOME: ContextVar[Path] = ContextVar("home", default=HERE)
CANDIDATES, CACHE, MODELS = Path("candidates.toml"), Path(".cache"), Path("models")
CURRENT = MODELS / "current"


@dataclass(frozen=True)
class Settings:
    """The parameters of every stage, as they were asked for."""

    params: Annotated[Path | None, _settings(help="The parameters of every stage. Default: training/params.toml.")] = (
        None
    )
    overrides: Annotated[
        Sequence[str],
        _settings(
            "--set",
            help="stage.key=value, as fit.half_life_days=60; overrides --params. May be repeated. "
            "All keys: training/params.toml.",
        ),
    ] = ()

    def load(self, more: Sequence[str] = ()) -> Params:
        """The parameters, checked, with `more` overrides from options of a command's own; raises ConfigError."""
        from training.config import DEFAULTS, load_params

        return load_params(self.params or DEFAULTS, (*self._tracked_at_home(), *self.overrides, *more))

    def _tracked_at_home(self) -> tuple[str, ...]:
        """Where MLflow's files are, unless a file of parameters says so."""
        home = _HOME.get()
        if self.params is not None or home == HERE:
            return ()
        mlruns = home.resolve() / "mlruns"
        return (f"tracking.uri=sqlite:///{mlruns / 'mlflow.db'}", f"tracking.artifacts={mlruns / 'artifacts'}")


@dataclass(frozen=True)
class LogOptions:
    """How a log is read, graded and masked: the same options give every command the same outcomes (`reading.read`)."""

    data: Annotated[
        Sequence[str],
        _log(help="A log: a file, a folder or a URL (s3:, gs:, postgresql:, langfuse:, hf:). May be repeated."),
    ] = ()
    logs: Annotated[
        Path | None, _log(help="A TOML file that lists logs, each table with its own data, format, map and scores.")
    ] = None
    format: Annotated[str, _log(help="An importer's name, or auto to recognise each file.")] = "auto"
    map: Annotated[
        Sequence[str],
        _log(
            help="COLUMN=FIELD, nested fields by dots: candidate=llm, prompt=question.text, quality=grade:stars. COLUMN= "
            "leaves a column out. May be repeated."
        ),
    ] = ()
    allow_pickle: PickleOption = False
    scores: ScoresOption = ()
    score_rule: ScoreRuleOption = ()
    score_name: ScoreNameOption = None
    trace_scores: Annotated[
        Literal["last", "all"], _quality(help="The tries of a trace that its score applies to.")
    ] = "last"
    check: CheckOption = ()
    judge: JudgeOption = None
    judge_budget_usd: JudgeBudgetOption = None
    judge_price: JudgePriceOption = None
    redact: Annotated[
        bool,
        _privacy(help="Mask e-mail addresses, phone numbers, keys and card numbers before anything is kept or sent."),
    ] = False
    phone_region: Annotated[
        Sequence[str],
        _privacy(help="With --redact: where phone numbers without a country code are from (ISO 3166). Default: US."),
    ] = ()
    catalogue: CatalogueOption = CANDIDATES
    cache: CacheOption = CACHE

    @property
    def given(self) -> bool:
        """Whether any log is."""
        return bool(self.data) or self.logs is not None

    def words(self) -> list[str]:
        """The options that say which log it is and how it is read, as they are typed; not who grades it."""
        typed: list[str] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default or one.name.startswith("judge"):
                continue
            flag = f"--{one.name.replace('_', '-')}"
            if isinstance(value, bool):
                typed.append(flag)
            else:
                for part in value if isinstance(value, tuple) else (value,):
                    typed += [flag, str(part)]
        return typed

    @property
    def needing_data(self) -> list[str]:
        """The options given that mean nothing without --data or --logs."""
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        return [f"--{name.replace('_', '-')}" for name in given if name not in ("catalogue", "cache")]


@dataclass(frozen=True)
class GradeOptions:
    """How answers that were bought are graded: as those of a log are."""

    check: CheckOption = ()
    scores: ScoresOption = ()
    score_rule: ScoreRuleOption = ()
    score_name: ScoreNameOption = None
    judge: JudgeOption = None
    judge_budget_usd: JudgeBudgetOption = None
    judge_price: JudgePriceOption = None
    cache: CacheOption = CACHE

    @property
    def given(self) -> bool:
        """Whether anything grades."""
        return bool(self.check or self.scores or self.judge)

    def of_a_log(self) -> LogOptions:
        """The same, as options on a log."""
        return LogOptions(**{one.name: getattr(self, one.name) for one in fields(self)})


def at_home(home: Path) -> dict[str, dict[str, str]]:
    """For each command that writes or reads there, its options' defaults in this folder, where MLflow's files are then too."""
    _HOME.set(home)
    models, cache = {"out": str(home / MODELS)}, {"cache": str(home / CACHE)}
    bundle = {"bundle": str(home / CURRENT)}
    return {
        "run": {**models, **cache},
        **dict.fromkeys(("promote", "rollback", "set-point", "bundles"), models),
        "compare": {**models, **cache},
        "add-candidate": {**models, **cache},
        **dict.fromkeys(("inspect", "import", "catalogue", "fetch", "plan", "replay"), cache),
        "evaluate": {**bundle, **cache},
        "plot": bundle,
    }


def require_local(words: Sequence[str]) -> None:
    """Raises ObjectStoreError where a URL of an object store is given for what has to be on a disk."""
    from training.logs.objects.address import ObjectStoreError, is_object_url, shown

    takes = {"--data", "--test", *(["--out"] if "import" in words else [])}
    for before, word in pairwise(("", *words)):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if (equals or not word.startswith("-")) and is_object_url(value) and option not in takes:
            what = f"{option} {shown(value)}" if option.startswith("-") else shown(value)
            raise ObjectStoreError(
                f"{what}: is to be on a disk. On an object store are logs (--data, --test, data in the list that --logs names) "
                "and what router-train import writes (--out). Bundles get to services by MLflow's registry: docs/serving.md"
            )


def load_prices(catalogue: Path) -> dict[str, Candidate]:
    """The shipped candidates and those of a catalogue file, by name; raises CatalogueError."""
    from training.prices.catalogue import known_candidates

    return known_candidates(catalogue)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: a parameter that is one of the groups above becomes an option for each of its fields.

    An option for a field that is a sequence may be given several times.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {one.name: one.annotation for one in parameters if is_dataclass(one.annotation)}

    def run(**given: Any) -> None:
        for name, group in groups.items():
            found = {one.name: given.pop(one.name) for one in fields(group)}
            given[name] = group(**{key: _frozen(value) for key, value in found.items() if value is not None})
        command(**given)

    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters if one.name not in groups]
    options = [*own, *(option for group in groups.values() for option in _options(group))]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for one in fields(group):
        kind, option = get_args(hints[one.name])
        default = one.default
        if default == ():
            kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
        yield inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
