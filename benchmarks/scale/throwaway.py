"""A PostgreSQL of a measurement's own, in a folder that goes away with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

_SECONDS = 60.0
# As somebody sets it for a store of that size; what is written is on the disk when it is acknowledged, as is usual.
_SETTINGS = {
    "shared_buffers": "1GB",
    "effective_cache_size": "8GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "listen_addresses": "127.0.0.1",
}


def _binary(name: str) -> str:
    below = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(below[-1]) if below else None)
    if found is None:
        raise SystemExit(f"{name} is not installed: this is measured on a PostgreSQL of its own (Debian: postgresql)")
    return found


@contextmanager
def postgres(work: Path) -> Iterator[str]:
    """The URL of a server that runs until the block ends, with its data below `work`."""
    owner = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    with tempfile.TemporaryDirectory(dir=work.absolute(), prefix="postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if owner:
            shutil.chown(folder, owner)
        data = folder / "data"
        initdb = [_binary("initdb"), "-D", str(data), "-U", "bench", "-A", "trust", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, user=owner, cwd=folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [_binary("postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
        for setting, value in _SETTINGS.items():
            command += ["-c", f"{setting}={value}"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, user=owner, cwd=folder, stdout=log, stderr=log)
        url = f"postgresql://bench@127.0.0.1:{port}/postgres"
        try:
            _wait(url, server)
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=_SECONDS)


def engine_of(url: str) -> sa.Engine:
    """An engine that keeps no connection."""
    return sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)


def own_database(url: str, name: str) -> str:
    """Makes a database, and gives its URL."""
    with engine_of(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _SECONDS
    while True:
        try:
            with engine_of(url).connect():
                return
        except sa.exc.OperationalError:
            if server.poll() is not None or time.monotonic() > ends:
                raise
            time.sleep(0.1)
