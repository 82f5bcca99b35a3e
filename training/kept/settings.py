"""The parameters of a run that adds to an earlier one: those of that run, but for what may change and was asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from training.config import Params, from_flat
from training.kept.files import KeptError

# What decides which requests are in which part and what is known of them, or what was selected under.
_FIXED = ("simulate.", "split.", "embed.", "label.", "scale.", "fit.", "calibrate.")
_FREE = ("fit.half_life_days", "fit.weight_clip", "fit.novelty_clusters")
# Where this machine keeps its runs is no part of what was made.
_OF_THE_MACHINE = "tracking."


def settings_since(kept: Mapping[str, Any], asked: Params, named: Collection[str]) -> Params:
    """The kept parameters with those of `asked` that were `named` ("stage.key"); raises KeptError for one that may not change.

    Figures by other splits, which are learned anew each, are left out unless they are asked for.
    """
    wanted, shipped = asked.flat(), asked.flat()
    before = {name: kept.get(name, value) for name, value in shipped.items()}
    for name in named:
        if name.startswith(_FIXED) and name not in _FREE and _plain(wanted[name]) != _plain(before[name]):
            raise KeptError(
                f"{name} is {_plain(wanted[name])!r}, and what was kept was made with {_plain(before[name])!r}: it decides "
                "what was kept or selected. Leave it out, or train on everything with it: router-train run --data OLD --data "
                "NEW"
            )
    now = {name: value for name, value in wanted.items() if name in named or name.startswith(_OF_THE_MACHINE)}
    rest = {"evaluate.splits": False} if "evaluate.splits" not in named else {}
    return from_flat(before | rest | now)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
