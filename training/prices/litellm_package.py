"""Where the installed LiteLLM keeps the data it ships: found and read as files, for importing it takes seconds."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def litellm_folder() -> Path | None:
    """The folder of the installed litellm package; None where it is not installed."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def litellm_version() -> str:
    """The version of the installed litellm package."""
    return version("litellm")
