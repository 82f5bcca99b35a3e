"""The settings of the plug-in: ROUTER_LITELLM_*, and where the router is. What a service itself reads is `serving.settings`.

A proxy whose settings are wrong does not start: a call that is not decided as was meant is seen by nobody.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving.decide.globs import matches
from serving.settings import Settings, unknown_variables

logger = logging.getLogger(__name__)

# Variables of LiteLLM's own that begin like ours.
_OF_LITELLM = frozenset({"ROUTER_MAX_FALLBACKS"})
_LONGEST_VALUE = 100
_SECONDS = "seconds above 0, as 5"
_EXPECTED = {
    "group": "the name of a model group, as outcome-router/auto",
    "share": "a share from 0 to 1, as 0.1",
    "timeout_seconds": "seconds above 0, as 0.5",
    "retry_after_seconds": _SECONDS,
    "load_seconds": _SECONDS,
    "access_seconds": "seconds, 0 or more, as 5",
    "signals": "true or false",
    "headers": "true or false",
}
# Every group with such a name is one of ours: its rows are candidates.
OWN_GROUPS = "outcome-router/*"


class LiteLLMSettings(BaseSettings):
    """How the plug-in decides: with a `url` it asks that router, without one it is a router itself (ROUTER_BUNDLE)."""

    model_config = SettingsConfigDict(
        env_prefix="ROUTER_LITELLM_", env_parse_none_str="none", frozen=True, extra="ignore"
    )

    url: str | None = Field(
        default=None,
        validation_alias="ROUTER_URL",
        description="The router's address; none: the bundle is loaded into the proxy's own process.",
    )
    api_key: str | None = Field(
        default=None, validation_alias="ROUTER_API_KEY", description="The plug-in's key at the router."
    )
    group: str = Field(
        default="outcome-router/auto", min_length=1, description="The model group whose rows are the candidates."
    )
    groups: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Existing model groups that are shadowed or routed too, separated by commas; globs."
    )
    share: float = Field(default=1.0, ge=0, le=1, description="Share of the traffic that is routed; 0: shadow mode.")
    reference: str | None = Field(
        default=None,
        description="The candidate that answers while the router does not; none: the bundle's, once it is known.",
    )
    timeout_seconds: float = Field(default=0.5, gt=0, description="Longest wait for a decision over HTTP.")
    retry_after_seconds: float = Field(default=5.0, gt=0, description="For how long a router that failed is not asked.")
    load_seconds: float = Field(
        default=30.0, gt=0, description="Longest wait of a first request for the bundle to be loaded."
    )
    access_seconds: float = Field(default=5.0, ge=0, description="For how long it is remembered what a key may use.")
    spool: Path = Field(
        default=Path("data/litellm-spool.db"),
        description="The file that keeps what became of calls until the router has it; every worker of a proxy shares it.",
    )
    signals: bool = Field(
        default=False, description="Whether weak signs of an answer's quality (asked again, empty, cut) are told too."
    )
    headers: bool = Field(default=True, description="Whether answers have the x-router-* headers.")

    @field_validator("groups", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        return tuple(one.strip() for one in given.split(",") if one.strip()) if isinstance(given, str) else given

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"expected an address with http:// or https://, as http://{url.rpartition('/')[2]}")
        return url

    @field_validator("groups")
    @classmethod
    def _routes_no_group_into_itself(cls, groups: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        own = str(info.data.get("group", ""))
        wrong = [
            glob
            for glob in groups
            if glob.startswith(OWN_GROUPS[:-1]) or (matches(own, glob) and not matches(own, OWN_GROUPS))
        ]
        if wrong:
            raise ValueError(
                f"expected existing groups; {wrong[0]} is the candidates' own group, which is decided on anyway"
            )
        return groups

    def own(self, group: str) -> bool:
        """Whether a group's rows are candidates."""
        return group == self.group or matches(group, OWN_GROUPS)

    def existing(self, group: str) -> bool:
        """Whether it is another group that is shadowed or routed."""
        return any(matches(group, glob) for glob in self.groups) and not matches(group, OWN_GROUPS)

    def label(self, group: str) -> str:
        """A group as metrics have it: as it is set, for a client may ask for names that it makes up."""
        if group == self.group:
            return group
        return next((glob for glob in (OWN_GROUPS, *self.groups) if matches(group, glob)), "other")

    @classmethod
    def variables(cls) -> frozenset[str]:
        """The names of the environment that the plug-in reads."""
        own = {f"ROUTER_LITELLM_{name.upper()}" for name in cls.model_fields} | {"ROUTER_LITELLM_LANGFUSE"}
        return frozenset(own - {"ROUTER_LITELLM_URL", "ROUTER_LITELLM_API_KEY"} | {"ROUTER_URL", "ROUTER_API_KEY"})


class StartError(ValueError):
    """A setting that is none, or a value that it does not take; the message is one line."""


def settings_of_environment() -> LiteLLMSettings:
    """The plug-in's settings; raises StartError. Where the router is in this process its settings are looked at too."""
    if unknown := unknown_variables(_OF_LITELLM):
        raise StartError(unknown[0] + (f" ({len(unknown) - 1} more)" if len(unknown) > 1 else ""))
    try:
        settings = LiteLLMSettings()
        if settings.url is None:
            Settings()
    except ValidationError as error:
        raise StartError(_wrong(error)) from None
    return settings


def announce(settings: LiteLLMSettings) -> None:
    """Says in one line of the log what it does from now on: as a warning, for LiteLLM's proxy shows no less by itself."""
    logger.warning("%s", said_of(settings))


def said_of(settings: LiteLLMSettings) -> str:
    """Who decides on which groups, what is routed, and where prompts are kept, in one line."""
    if settings.url is None:
        from serving.store.engine import kept

        service = Settings()
        decides, keeps = f"bundle {service.bundle} in this process", kept(service.store, prompts=service.store_prompts)
    else:
        decides, keeps = f"router at {settings.url}", "what is stored of prompts is the router's to say"
    if settings.share == 0:
        routed = "share 0: calls are decided on and recorded, and served as before"
    else:
        routed = f"share {settings.share:g}"
    groups = f"existing groups {', '.join(settings.groups)}" if settings.groups else "no existing groups"
    return f"outcome-router: {decides}; candidates in {settings.group}, {groups}; {routed}; {keeps}"


def _wrong(error: ValidationError) -> str:
    wrong = error.errors()[0]
    field = str(wrong["loc"][0]) if wrong["loc"] else ""
    ours = error.title == LiteLLMSettings.__name__
    prefix = "ROUTER_LITELLM_" if ours else "ROUTER_"
    name = field if field.startswith("ROUTER_") else f"{prefix}{field.upper()}"
    value = str(wrong["input"])[:_LONGEST_VALUE].encode("unicode_escape").decode()
    said = wrong["msg"].removeprefix("Value error, ")
    expected = f"expected {_EXPECTED[field]}" if ours and field in _EXPECTED else said[:1].lower() + said[1:]
    return f"{name}={value}: {expected}"
