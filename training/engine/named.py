"""The cluster that a command names, opened; none is the engine of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.engine.address import ClusterError, require_host, workers_of
from training.engine.engine import Engine
from training.engine.local import HERE


def shared_folder(cluster: str | None, folder: Path | None, cache: Path) -> Path:
    """The folder that a cluster's machines share; raises ClusterError where one was given and no cluster."""
    if folder is not None and cluster is None:
        raise ClusterError(f"--cluster-folder {folder}: give --cluster as well; a run without one shares nothing")
    return folder or cache / "cluster"


@contextmanager
def engine_of(cluster: str | None, folder: Path, say: Callable[[str], None]) -> Iterator[Engine]:
    """The engine that a command works with, and `say` told what it is and who leaves it; see `cluster.opened`."""
    if cluster is None:
        yield HERE
        return
    workers_of(cluster)
    require_host(cluster)
    try:
        from training.engine.cluster import opened
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("dask", "distributed"):
            raise
        raise ClusterError("--cluster takes Dask: pip install 'outcome-router[train,cluster]'") from None
    with opened(cluster, folder, say) as (engine, said):
        say(said)
        yield engine
