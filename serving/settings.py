"""The settings of a serving process. This is the only place that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_NONE = "none"
_BUNDLE, _STORE = "models/current", "data/decisions.db"
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# What Kubernetes sets in the pods beside a Service that is called router, or router-something.
_OF_KUBERNETES = re.compile(r"ROUTER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")
# What the plug-ins and the client's examples read beside the service's settings.
OF_PLUGINS = frozenset(
    f"ROUTER_{name}"
    for name in (
        "URL", "API_KEY", "LITELLM_GROUP", "LITELLM_GROUPS", "LITELLM_SHARE", "LITELLM_REFERENCE", "LITELLM_TIMEOUT_SECONDS",
        "LITELLM_RETRY_AFTER_SECONDS", "LITELLM_LOAD_SECONDS", "LITELLM_ACCESS_SECONDS", "LITELLM_SPOOL", "LITELLM_SIGNALS",
        "LITELLM_HEADERS", "LITELLM_LANGFUSE",
    )
)  # fmt: skip
_LONGEST_NAME = 64
LogLevel = Literal["critical", "error", "warning", "info", "debug"]


def _networks(given: str | None) -> str | None:
    """Raises ValueError where one of them is none."""
    for one in () if given is None else given.split(","):
        ip_network(one.strip())
    return given


class Settings(BaseSettings):
    """Serve a bundle over HTTP. What is not given as an option comes from the environment, or is the default."""

    model_config = SettingsConfigDict(
        env_prefix="ROUTER_",
        env_parse_none_str=_NONE,
        frozen=True,
        cli_prog_name="router-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    home: Path = Field(default=Path(), description="The folder of the bundle and the store where they are not given.")
    bundle: Annotated[str, BeforeValidator(str)] = Field(
        default=_BUNDLE, description="The bundle: a folder, or models:/<name>@<alias> in MLflow's registry."
    )
    shadow: str | None = Field(default=None, description="A second bundle that is asked as well and never answers.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=1, le=65_535, description="Port to listen on.")
    workers: int = Field(default=1, ge=1, description="Processes that serve, each with its own bundle in memory.")
    threads: int = Field(default=1, ge=1, description="Threads of one forward pass; more processes scale better.")
    encoders: int = Field(
        default=2,
        ge=1,
        description="Threads that embed with a transformer encoder, at best one a core. A static one needs none.",
    )
    watch_seconds: float = Field(default=2.0, gt=0, description="How often to look for a new bundle.")
    page: bool = Field(default=True, description="Whether / shows the page.")
    live_seconds: float = Field(default=1.0, ge=0.2, description="How often the page's live figures are taken anew.")
    live_streams: int = Field(default=32, ge=1, description="Pages that may watch one worker live at a time.")
    policies: Path | None = Field(default=None, description="The rule file (policies.toml): rules, budgets, API keys.")
    store: str | None = Field(
        default=_STORE,
        description="Decisions and feedback: an SQLite file, or a PostgreSQL URL. Empty: none.",
    )
    store_prompts: bool = Field(
        default=True, description="Whether decisions are stored with their prompt, to train on."
    )
    store_queue: int = Field(default=20_000, ge=1, description="Rows that may wait to be written.")
    store_queue_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1, description="Memory of the rows that may wait; text is left out first."
    )
    feedback_seconds: float = Field(
        default=10.0, gt=0, description="Longest wait for feedback to be on disk (503 after)."
    )
    reserve_wait_ms: float = Field(
        default=2000.0,
        gt=0,
        description="Longest wait for the store to hold a budget; after it a decision goes by what this process knows.",
    )
    redis: SecretStr | None = Field(
        default=None,
        description="A redis:// or rediss:// URL: API keys' rates hold for all replicas together (extra redis).",
    )
    idempotency_seconds: float = Field(
        default=600.0, gt=0, description="How long a call with an Idempotency-Key is answered by the same bytes again."
    )
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long after SIGTERM requests are still taken, while /readyz says that no more are to come.",
    )
    embed_wait_ms: float = Field(
        default=200.0,
        gt=0,
        description="Longest wait for a prompt's embedding; after it the reference candidate answers.",
    )
    explore: float = Field(default=0.0, ge=0, le=0.2, description="Share of requests that may go elsewhere, to learn.")
    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of decisions that are followed; of the others who answers otherwise is named.",
    )
    session_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1, description="Memory for sessions; the least recently used are forgotten."
    )
    session_seconds: float = Field(
        default=3600.0, gt=0, description="How long a session is remembered after its last request."
    )
    session_margin: float = Field(
        default=0.03, ge=0, description="How much more another candidate has to be worth for a session to move to it."
    )
    session_wait_ms: float = Field(
        default=50.0,
        ge=0,
        description="Longest wait for PostgreSQL to say where a conversation is, and to be told; 0: other replicas hear later.",
    )
    derived_sessions: bool = Field(
        default=True,
        description="Whether a conversation without a session_id is told by its system prompt, tools and first user turn.",
    )
    hash_secret: str | None = Field(
        default=None,
        description="What sessions are hashed with; the same for all replicas that share them. None: drawn at the start.",
    )
    context_margin: float = Field(
        default=1.1, ge=1, description="Times a prompt's estimated tokens have to fit a window."
    )
    embedding_cache_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1, le=64 * 1024**3, description="Memory for embeddings of recent prompts."
    )
    waiting_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1,
        description="Memory for texts that wait to be embedded, and as much for requests that wait for the shadow bundle.",
    )
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1, description="A longer request body is refused (413).")
    body_seconds: float = Field(default=30.0, gt=0, description="A body that is not whole by then is refused (408).")
    bodies_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1, description="Memory of all bodies that are being handled; 503 above it."
    )
    connections: int = Field(
        default=10_000, ge=1, description="Most connections of one worker (503 above), fewer where files are limited."
    )
    trusted_proxies: Annotated[str | None, AfterValidator(_networks)] = Field(
        default=None,
        description="Addresses or networks, by commas, whose X-Forwarded-* headers are believed. None: nobody's.",
    )
    max_batch: int = Field(default=256, ge=1, le=4_096, description="Most requests, or feedback, in one batch.")
    max_values: int = Field(
        default=20_000, ge=1_000, description="A request body with more JSON values is refused (422)."
    )
    metrics_token: str | None = Field(
        default=None, description="Who sends it as a bearer token sees the names of API keys in /metrics."
    )
    drift_window: int = Field(
        default=2000, ge=1, description="Prompts, and judged decisions, that drift is measured over."
    )
    drift_prompts: int = Field(default=1000, ge=1, description="Prompts without which no drift is reported.")
    drift_feedback: int = Field(
        default=200, ge=1, description="Judged decisions without which no calibration error is reported."
    )
    drift_psi: float = Field(
        default=0.25, gt=0, description="Population stability index of prompts that is worth a warning."
    )
    drift_novel_share: float = Field(default=0.2, gt=0, description="Share of novel prompts that is worth a warning.")
    drift_calibration_error: float = Field(
        default=0.1, gt=0, description="Calibration error on feedback that is worth a warning."
    )
    otel: bool = Field(default=False, description="OpenTelemetry traces (extra otel); the exporter is set by OTEL_*.")
    log_level: LogLevel = Field(default="info", description="From `debug` on, every request is logged by its path.")

    @model_validator(mode="before")
    @classmethod
    def _at_home(cls, given: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(given.get("home"), str | Path):
            return given
        home = Path(given["home"])
        return {"bundle": str(home / _BUNDLE), "store": str(home / _STORE), **given}


class LangfuseSettings(BaseSettings):
    """The Langfuse project that decisions are written back to, by the variables that Langfuse's own clients read."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, populate_by_name=True, hide_input_in_errors=True
    )

    write_back: bool = Field(
        default=False,
        validation_alias=AliasChoices("ROUTER_LITELLM_LANGFUSE"),
        description="Whether decisions and their scores are sent to Langfuse.",
    )
    host: str = Field(
        default="https://cloud.langfuse.com",
        validation_alias=AliasChoices("LANGFUSE_BASE_URL", "LANGFUSE_HOST"),
        description="The server, without a path.",
    )
    public_key: str | None = Field(default=None, validation_alias=AliasChoices("LANGFUSE_PUBLIC_KEY"))
    secret_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("LANGFUSE_SECRET_KEY"))
    environment: str | None = Field(
        default=None,
        validation_alias=AliasChoices("LANGFUSE_TRACING_ENVIRONMENT"),
        description="Langfuse's environment of what is sent: the one that the gateway's own traces have.",
    )


def unknown_variables(others: Collection[str] = ()) -> list[str]:
    """Each ROUTER_* variable that is no setting, nor one of `others`, with the setting that may be meant."""
    known = [*(f"ROUTER_{name.upper()}" for name in Settings.model_fields), *sorted(OF_PLUGINS)]
    found = []
    for arrived in sorted(os.environ):
        name = arrived.upper()  # a setting is read in any case
        if name.startswith("ROUTER_") and name not in (*known, *others) and not _OF_KUBERNETES.fullmatch(name):
            meant = get_close_matches(name[:_LONGEST_NAME], known, 1)
            shown = arrived[:_LONGEST_NAME].encode("unicode_escape").decode()
            found.append(f"{shown} is no setting" + (f"; did you mean {meant[0]}?" if meant else ""))
    return found


def hand_on(settings: Settings) -> None:
    """Puts the settings that were given into the environment, where worker processes read them."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        shown = value.get_secret_value() if isinstance(value, SecretStr) else value
        os.environ[f"ROUTER_{name.upper()}"] = _NONE if shown is None else str(shown)


def share_metrics(folder: str) -> None:
    """Has the workers that are started from now on keep their Prometheus metrics in files in this folder."""
    os.environ[_METRICS_FOLDER] = folder


def metrics_folder() -> str:
    """Where the workers' metrics are; raises KeyError where they are not shared."""
    return os.environ[_METRICS_FOLDER]


def several_processes() -> bool:
    """Whether Prometheus metrics are kept in files that all workers share (PROMETHEUS_MULTIPROC_DIR)."""
    return _METRICS_FOLDER in os.environ
