"""A Redis and an HAProxy of the tests' own; where they are not installed, tests of them are skipped."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.patience import PATIENCE, reserved_port, until

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
# A connection that could not be made goes to another server; nothing that was sent is sent again.
_BALANCER = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 10s
    timeout client 300s
    timeout server 300s
    retries 3
    option redispatch 1
    retry-on conn-failure
frontend all
    bind 127.0.0.1:{port}
    default_backend routers
backend routers
    balance leastconn
    option httpchk GET /readyz
    http-response set-header x-replica %s
    default-server check inter 100ms fastinter 50ms fall 2 rise 1
{servers}
"""


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def redis_running(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that keeps nothing on disk, ready."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([*command, "--dir", str(folder)], stdout=log, stderr=log)

        def answers() -> bool:
            assert process.poll() is None, (folder / "redis.log").read_text()
            try:
                with redis.Redis(port=port) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        try:
            until(answers, "Redis is ready")
            yield process
        finally:
            _ended(process)


@contextmanager
def balanced(servers: Mapping[str, int], folder: Path) -> Iterator[str]:
    """The URL of a load balancer before these servers, by their names and ports; `x-replica` of an answer says which it was."""
    lines = "\n".join(f"    server {name} 127.0.0.1:{port}" for name, port in servers.items())
    with reserved_port() as port, (folder / "haproxy.log").open("wb") as log:
        config = folder / "haproxy.cfg"
        config.write_text(_BALANCER.format(port=port, servers=lines))
        process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=log, stderr=log)

        def listens() -> bool:
            assert process.poll() is None, (folder / "haproxy.log").read_text()
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", port)) == 0

        try:
            until(listens, "HAProxy is ready")
            yield f"http://127.0.0.1:{port}"
        finally:
            assert process.poll() is None, (folder / "haproxy.log").read_text()
            _ended(process)
