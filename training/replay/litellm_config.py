"""LiteLLM's `config.yaml`: under which name, where and by which key its proxy asks each LLM."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from training.prices.catalogue import Replay
from training.replay.errors import ReplayError

_PREFIX = "os.environ/"
# What says where an LLM is; what else a deployment has (weights, tags, prices) is the proxy's own.
_PLACES = ("api_version", "organization", "region_name", "custom_llm_provider", "aws_", "vertex_", "azure_", "watsonx_")
_SECRETS = ("key", "secret", "token", "password", "credentials")


class Deployment(Replay):
    """Where an LLM is asked, and what LiteLLM is told beside that."""

    settings: Mapping[str, Any] = Field(default_factory=dict, repr=False)


def from_environment(value: Any) -> str | None:
    """The variable that a value names as `os.environ/NAME`, None for any other value."""
    return value.removeprefix(_PREFIX) if isinstance(value, str) and value.startswith(_PREFIX) else None


def load_config(path: Path) -> dict[str, Deployment]:
    """What the file's `model_list` says of each `model_name`, of several deployments the first; raises ReplayError.

    A key that stands in the file itself is refused, and not shown.
    """
    yaml: Any = importlib.import_module("yaml")
    expected = "expected LiteLLM's config.yaml: model_list: [{model_name: ..., litellm_params: {model: ..., ...}}]"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(f"{path}: cannot be read ({type(error).__name__}); {expected}") from None
    except yaml.YAMLError as error:  # its text quotes the file
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise ReplayError(
            f"{path}: not valid YAML{'' if line is None else f' at line {line + 1}'}; {expected}"
        ) from None
    entries = document.get("model_list") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise ReplayError(f"{path}: no model_list; {expected}")
    found: dict[str, Deployment] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: model_list, entry {number}"
        name = entry.get("model_name") if isinstance(entry, Mapping) else None
        params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not isinstance(params, Mapping) or not isinstance(params.get("model"), str):
            raise ReplayError(f"{where}: model_name, or model in litellm_params, is missing; {expected}")
        found.setdefault(name, _definition(params, f"{where} ({name})"))
    return found


def _definition(params: Mapping[str, Any], where: str) -> Deployment:
    for field, value in params.items():
        secret = any(word in field.lower().split("_") for word in _SECRETS)
        if secret and isinstance(value, str | Mapping) and from_environment(value) is None:
            raise ReplayError(
                f"{where}: {field} stands in the file; expected {field}: os.environ/NAME, and the key in that variable. "
                "Move it there."
            )
    rpm = params.get("rpm")
    if rpm is not None and (isinstance(rpm, bool) or not isinstance(rpm, int | float) or rpm <= 0):
        raise ReplayError(f"{where}: rpm: expected calls per minute, a number above 0")
    base = params.get("api_base") or params.get("base_url")
    if base is not None and not isinstance(base, str):
        raise ReplayError(f"{where}: api_base: expected a URL, or os.environ/NAME")
    return Deployment(
        model=params["model"],
        api_base=base,
        api_key_env=from_environment(params.get("api_key")),
        rpm=rpm,
        settings={field: value for field, value in params.items() if field.startswith(_PLACES)},
    )
