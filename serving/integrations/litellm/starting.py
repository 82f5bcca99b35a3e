"""What the plug-in reads of the environment at its start, and what it says of itself then.

A proxy whose settings are wrong does not start: a call that is not decided as was meant is seen by nobody.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from serving.integrations.litellm.settings import LiteLLMSettings
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
