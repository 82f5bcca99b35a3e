"""Bodies that come slowly or many at once: they are refused, and the requests beside them are decided."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.patience import PATIENCE, until
from tests.serving.attacks.conftest import Attack, Attacked

MB = 2**20


@contextmanager
def begun(service: Attacked, length: int, sent: bytes) -> Iterator[socket.socket]:
    """A connection that has announced a body of so many bytes and sent some of them."""
    head = f"POST /v1/route HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    address = ("127.0.0.1", service.client.base_url.port)
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + sent)
        yield connection


def status(connection: socket.socket) -> int:
    return int(connection.makefile("rb").readline().split()[1])


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    return select.select(connections, [], [], 0)[0]


def test_a_body_that_does_not_come_is_a_408(attacked: Attack) -> None:
    service = attacked(body_seconds=0.3)
    with begun(service, 1_000, b'{"prompt": ') as slow:
        with begun(service, 19, b'{"prompt": "hello"}') as whole:  # in one piece, so that no machine is too slow for it
            assert status(whole) == 200
        answer = slow.makefile("rb").read()  # to its end: the connection is closed
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["detail"] == "The body was not whole after 0.3 s (ROUTER_BODY_SECONDS)."


def test_half_bodies_take_no_more_memory_than_they_may(attacked: Attack) -> None:
    service = attacked(bodies_bytes=20 * MB)
    before = service.memory()
    with ExitStack() as open_ones:
        connections = [
            open_ones.enter_context(begun(service, 4 * MB - 1, b"x" * (3 * MB + MB // 2))) for _ in range(24)
        ]
        # Five bodies of 3.5 MB may be held, so all others are answered.
        until(lambda: len(answered(connections)) >= 19)
        assert {status(one) for one in answered(connections)} == {503}
        assert service.route(prompt="hello")["reason"] == "best_value"
        assert service.memory() - before < 80 * MB
    assert service.post("/v1/route", {"prompt": "word " * 100_000}).status_code == 200


def test_connections_above_the_bound_are_told_so(attacked: Attack) -> None:
    service = attacked(connections=8)
    with ExitStack() as open_ones:
        for _ in range(16):
            open_ones.enter_context(begun(service, 10, b""))
        with begun(service, 19, b'{"prompt": "hello"}') as one_more:
            assert status(one_more) == 503

    def decided() -> bool:
        with begun(service, 19, b'{"prompt": "hello"}') as later:
            return status(later) == 200

    until(decided, "room, now that the others have gone")
