"""Serving: a bundle in, route decisions out. What is imported from here is what others may rely on.

A request's way, a room a step: `api` checks the caller's key and reads the body; `runtime` puts it under the rules of `state`,
asks there what budgets hold and where its conversation is, embeds its text, and has `decide` choose by what the `bundle`
expects of each candidate; the decision and what comes of it are kept in `store`, which is itself a log to train on.
Rooms below are imported, never those above: cli, api, runtime, state, store, decide, bundle, settings.
`client` is for programs that ask a service over HTTP.

Nothing here imports `training`, and nothing here needs torch, scikit-learn, lightgbm, pandas or mlflow. The names are looked
up when they are first used, so that training, which reads `serving.bundle`, does not load a runtime for ONNX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.bundle.request import RouteRequest
    from serving.decide.policy import Policy
    from serving.decide.router import Router

__all__ = ["Policy", "RouteRequest", "Router"]

_ROOMS = {
    "Policy": "serving.decide.policy",
    "RouteRequest": "serving.bundle.request",
    "Router": "serving.decide.router",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'serving' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_ROOMS[name]), name)
