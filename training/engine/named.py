"""The cluster that a command names, opened; none is the engine of this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.engine.engine import Engine
from training.engine.local import HERE
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


@contextmanager
def engine_of(cluster: str | None, folder: Path, say: Callable[[str], None]) -> Iterator[Engine]:
    """The engine that a command works with, and `say` told what it is; see `cluster.opened`."""
    if cluster is None:
        yield HERE
        return
    workers_of(cluster)
    try:
        from training.engine.cluster import opened
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("dask", "distributed"):
            raise
        raise ClusterError("--cluster takes Dask: pip install 'outcome-router[train,cluster]'") from None
    with opened(cluster, folder) as (engine, said):
        say(said)
        yield engine
