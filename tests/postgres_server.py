"""A PostgreSQL of the tests' own, in a folder that goes away; where it is not installed, tests of it are skipped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tests.patience import reserved_port, until

PASSWORD = "p@ss/w:rd"


def _binary(name: str) -> str | None:
    below = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(below[-1]) if below else None)


needs_postgres = pytest.mark.skipif(
    not (_binary("initdb") and _binary("postgres")), reason="PostgreSQL's initdb and postgres are not installed"
)


wait_for = until


def url_of(port: int, database: str = "postgres") -> str:
    return f"postgresql://tester:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"


def engine_of(url: str) -> sa.Engine:
    """An engine that keeps no connection."""
    return sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)


def own_database(url: str, name: str = "") -> str:
    """Makes a database on the server of a URL, of a name that no other has, and gives its URL."""
    name = f"{name}_{uuid4().hex}"
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
        command = [str(_binary("postgres")), "-D", str(home / "data"), "-k", str(home)]
        command += ["-c", "listen_addresses=127.0.0.1", "-F"]
        with reserved_port() as port, (folder / "log").open("wb") as log:
            server = subprocess.Popen([*command, "-p", str(port)], user=owner, cwd=home, stdout=log, stderr=log)
            try:
                until(lambda: server.poll() is not None or _answers(url_of(port)), "PostgreSQL is ready")
                assert server.poll() is None, (folder / "log").read_text()
                yield url_of(port)
            finally:
                server.send_signal(signal.SIGINT)  # fast: whoever is still connected is not waited for
                server.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        with engine_of(url).connect():
            return True
    except sa.exc.OperationalError:
        return False
