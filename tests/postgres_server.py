"""A PostgreSQL of the tests' own, in a folder that goes away; where it is not installed, tests of it are skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

PASSWORD = "p@ss/w:rd"


def _binary(name: str) -> str | None:
    below = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(below[-1]) if below else None)


needs_postgres = pytest.mark.skipif(
    not (_binary("initdb") and _binary("postgres")), reason="PostgreSQL's initdb and postgres are not installed"
)


def wait_for(ready: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until it is true; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"not ready after {seconds:g} s")
        time.sleep(0.05)


def url_of(port: int, database: str = "postgres") -> str:
    return f"postgresql://tester:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"


def engine_of(url: str) -> sa.Engine:
    """An engine that keeps no connection."""
    return sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)


def own_database(url: str, name: str) -> str:
    """Makes a database on the server of a URL, and gives its URL."""
    with engine_of(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


@contextmanager
def running() -> Iterator[str]:
    """The URL, with a password, of a server that runs until the block ends."""
    owner = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = folder / "pg"
        home.mkdir()
        secret = home / "secret"
        secret.write_text(PASSWORD)
        if owner:
            shutil.chown(home, owner)
            shutil.chown(secret, owner)
        initdb = [str(_binary("initdb")), "-D", str(home / "data"), "-U", "tester", "-A", "scram-sha-256"]
        subprocess.run([*initdb, f"--pwfile={secret}", "-N"], check=True, capture_output=True, user=owner, cwd=home)
        port = free_port()
        command = [str(_binary("postgres")), "-D", str(home / "data"), "-p", str(port), "-k", str(home)]
        server = subprocess.Popen(
            [*command, "-c", "listen_addresses=127.0.0.1", "-F"],
            user=owner, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(lambda: _answers(url_of(port)))
            yield url_of(port)
        finally:
            server.terminate()
            server.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        with engine_of(url).connect():
            return True
    except sa.exc.OperationalError:
        return False
