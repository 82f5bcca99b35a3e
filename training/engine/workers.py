"""What runs on a cluster's workers, and whether they are fit: the same code, the same packages, the same folder."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

import serving
import training
from training.engine.address import ClusterError
from training.engine.files import ANOTHER_FOLDER, SharedFiles, opened
from training.owned import NotOwnError, made_own, opened_own

if TYPE_CHECKING:
    from distributed import Client

# Another version of one of these may give other numbers, or cannot read what it is sent.
_PACKAGES = (
    "cloudpickle",
    "dask",
    "distributed",
    "lightgbm",
    "msgpack",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "tokenizers",
)
# Seconds that a file may take to be seen by another machine.
_SEEN = 10.0
_threads = threading.local()


@dataclass(frozen=True)
class Fitness:
    """What a worker is: its machine, the hash of its code, its versions, and what it reads in the probe's file."""

    host: str
    code: str
    versions: Mapping[str, str]
    read: str


def worked(function: Callable[[Any, Any], Any], given: str, part: Any) -> bytes:
    """One part, worked on with one thread; what comes of it as `SharedFiles.packed`."""
    if not getattr(_threads, "limited", False):
        threadpool_limits(1)
        _threads.limited = True
    path = Path(given)
    return SharedFiles(path.parent, keeps=True).packed(function(opened(path), part))


def checked(client: Client, folder: Path, cluster: str) -> list[str]:
    """The machines of the workers; raises ClusterError where one has other code or packages, or does not see `folder`."""
    nonce = token_hex(16)
    probe = folder / "probe"
    with made_own(probe) as file:
        file.write(nonce.encode("ascii"))
    found: dict[str, Fitness | Exception] = client.run(looked, str(probe), nonce, on_error="return")
    here = looked(str(probe), nonce)
    problems = {address: _unfit(there, here, folder) for address, there in found.items()}
    for what in dict.fromkeys(filter(None, problems.values())):
        workers = [address for address, problem in problems.items() if problem == what]
        more = f" and {len(workers) - 3} more" if len(workers) > 3 else ""
        raise ClusterError(f"--cluster {cluster}: worker {', '.join(workers[:3])}{more}: {what}")
    return sorted({there.host for there in found.values() if isinstance(there, Fitness)})


def looked(probe: str, nonce: str) -> Fitness:
    """What a worker finds of itself."""
    from socket import gethostname

    read, until = "", time.monotonic() + _SEEN
    while read != nonce and time.monotonic() < until:
        try:
            with opened_own(Path(probe), instead=ANOTHER_FOLDER) as file:
                read = file.read().decode("ascii")
        except (OSError, NotOwnError) as error:
            read = str(error) if isinstance(error, NotOwnError) else f"{type(error).__name__}: {error.strerror}"
            time.sleep(0.2)
    return Fitness(gethostname(), code(), versions(), read)


def _unfit(there: Fitness | Exception, here: Fitness, folder: Path) -> str:
    """Why a worker is not fit; "" where it is."""
    # What cannot even be loaded there arrives as an error that quotes its own.
    if isinstance(there, ImportError) or "ModuleNotFoundError" in str(there):
        return (
            f"lacks what it is to run ({there}). Install the same version of outcome-router there, with the extras train and "
            "cluster."
        )
    if isinstance(there, Exception):
        return f"cannot be asked what it is: {type(there).__name__}: {there}"
    other = [
        f"{name} {there.versions.get(name)} where this machine has {mine}"
        for name, mine in here.versions.items()
        if there.versions.get(name) != mine
    ]
    if other:
        return f"has {', '.join(other)}. Install the same versions on all machines (constraints.txt pins them)."
    if there.code != here.code:
        return "has other code of outcome-router under the same version number. Install the same on all machines."
    if there.read != here.read:
        return (
            f"does not see {folder} ({there.read or 'the file there is another'}). Give a folder that all machines have at the "
            "same path (--cluster-folder), and run the workers as the user of this command, whose its files are."
        )
    return ""


def versions() -> dict[str, str]:
    """Those of Python, this package, and the packages that numbers rest on."""
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for name in ("outcome-router", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def code() -> str:
    """sha256 over the modules of training and serving."""
    digest = hashlib.sha256()
    for folder in _folders():
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder.parent)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _folders() -> Iterable[Path]:
    return (Path(str(package.__file__)).parent for package in (serving, training))
