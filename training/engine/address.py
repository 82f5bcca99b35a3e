"""How a command names a cluster."""

from __future__ import annotations

import re

from training.errors import TrainingError

_LOCAL = re.compile(r"local:([1-9]\d{0,3})")
_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")


class ClusterError(TrainingError):
    """A cluster that cannot be reached, is not fit, or fails in the middle."""


def workers_of(cluster: str) -> int | None:
    """N of local:N, None for an address; raises ClusterError for anything else."""
    if found := _LOCAL.fullmatch(cluster):
        return int(found[1])
    if _ADDRESS.fullmatch(cluster):
        return None
    raise ClusterError(
        f"--cluster {cluster}: expected a scheduler's address, as tcp://scheduler:8786 or tls://scheduler:8786, or local:N for "
        "N workers on this machine, as local:4"
    )
