"""How a command names a cluster."""

from __future__ import annotations

import re
from ipaddress import ip_address
from socket import getaddrinfo

from training.errors import TrainingError

_LOCAL = re.compile(r"local:([1-9]\d{0,3})")
_ADDRESS = re.compile(r"(?P<by>tcp|tls)://(?P<host>\S+):\d+")


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


def require_host(cluster: str) -> None:
    """Raises ClusterError for a scheduler's address on a host that there is not."""
    if (found := _ADDRESS.fullmatch(cluster)) is None:
        return
    host = found["host"].removeprefix("[").removesuffix("]")
    try:
        getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise ClusterError(f"--cluster {cluster}: no such host: {host} ({error})") from None


def is_open(cluster: str) -> bool:
    """Whether it is a scheduler that is talked to without encryption, by more than this machine's loopback address."""
    found = _ADDRESS.fullmatch(cluster)
    if found is None or found["by"] == "tls" or found["host"].lower() == "localhost":
        return False
    try:
        return not ip_address(found["host"].removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:  # another machine's name, or this one's
        return True
