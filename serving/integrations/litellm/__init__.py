"""LiteLLM's plug-in. One line of the proxy's configuration routes the calls of a model group:

    litellm_settings:
      callbacks: [serving.integrations.litellm.router]

`router` is made when it is first looked up, which is when LiteLLM reads its configuration; nothing here imports LiteLLM before.
docs/litellm.md says how to begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.integrations.litellm.plugin import OutcomeRouter

    router: OutcomeRouter

__all__ = ["router"]


def __getattr__(name: str) -> Any:
    if name != "router":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from serving.integrations.litellm.plugin import OutcomeRouter

    made = OutcomeRouter()
    globals()["router"] = made
    return made
