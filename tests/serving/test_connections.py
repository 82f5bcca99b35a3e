"""What comes before a body is bounded: by its length, by the time it takes, and by how much of it waits."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from serving import connections
from serving.connections import MOST_HEAD_BYTES, MOST_PIPELINED, BoundedHttp
from tests.patience import PATIENCE, until

LARGE = b"x" * 2**24  # more than two sockets hold


async def echoing(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/later":
        await asyncio.sleep(0.1)
    answer = LARGE if scope["path"] == "/large" else str(len(body)).encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    server = uvicorn.Server(
        uvicorn.Config(echoing, port=0, http=BoundedHttp, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield server
    server.should_exit = True
    thread.join(PATIENCE)


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    number: int = server.servers[0].sockets[0].getsockname()[1]
    return number


def said(port: int, *sent: bytes) -> bytes:
    """All that comes back until the connection is closed; what cannot be sent any more is not."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        try:
            for part in sent:
                client.sendall(part)
        except OSError:
            pass
        came = b""
        try:
            while part := client.recv(65_536):
                came += part
        except ConnectionResetError:
            pass
        return came


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


def test_a_usual_head_is_taken_and_a_long_body_is_none_of_its_length(port: int) -> None:
    cookie = b"Cookie: " + b"c" * 16_000 + b"\r\n"
    body = b"x" * (10 * MOST_HEAD_BYTES)
    end = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert said(port, HEAD + cookie + end + body).endswith(b"\r\n\r\n%d" % len(body))


def test_requests_on_one_connection_are_not_added_up(port: int) -> None:
    one = HEAD + b"X: " + b"x" * 10_000 + b"\r\nContent-Length: 2\r\n\r\nab"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        for _ in range(20):
            client.sendall(one)
            came = b""
            while not came.endswith(b"\r\n\r\n2"):
                came += client.recv(65_536)
            assert came.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + b"X: ", *[b"x" * 60_000] * 50],
        [HEAD, *[b"X%d: a\r\n" % number * 5_000 for number in range(100)]],
        [b"GET /" + b"u" * 60_000, *[b"u" * 60_000] * 50],
    ],
    ids=["one header", "many headers", "address"],
)
def test_a_head_that_is_too_long_ends_the_connection(port: int, parts: list[bytes]) -> None:
    came = said(port, *parts)
    assert came == b"" or came.startswith(b"HTTP/1.1 431")
    assert said(port, HEAD + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [b"", HEAD])
def test_a_head_that_does_not_come_ends_the_connection(
    port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    came = said(port, begun)
    # What is sent to a connection that is closed by then may take the answer away, not the end.
    assert came.startswith(b"HTTP/1.1 408") or (begun and came == b"")


def test_between_two_requests_no_head_is_waited_for(server: uvicorn.Server, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        until(lambda: len(server.server_state.connections) == 1)
        (connection,) = server.server_state.connections
        assert isinstance(connection, BoundedHttp)
        assert connection._late is not None
        client.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        assert connection._late is None
        client.sendall(HEAD)
        until(lambda: connection._late is not None)


def test_few_requests_wait_for_the_answers_before_them(port: int) -> None:
    few = said(port, (HEAD + b"\r\n") * (MOST_PIPELINED // 2) + HEAD + b"Connection: close\r\n\r\n")
    assert few.count(b"HTTP/1.1 200") == MOST_PIPELINED // 2 + 1
    assert said(port, (HEAD + b"\r\n") * 20_000).count(b"HTTP/1.1 200") <= MOST_PIPELINED + 1
    assert said(port, HEAD + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_connection_that_is_refused_while_it_is_answered_is_no_error(
    server: uvicorn.Server, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        said(port, b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" * 2 * MOST_PIPELINED)
        until(lambda: not server.server_state.tasks)
    assert not caplog.records


@pytest.fixture
def unread(port: int) -> Iterator[socket.socket]:
    """A connection that asks for a large answer and reads none of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        yield client


def test_an_answer_that_nobody_reads_ends_the_connection(
    server: uvicorn.Server, unread: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: held(server))
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.2)
    with socket.create_connection(unread.getpeername(), timeout=PATIENCE) as other:
        other.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: len(server.server_state.connections) == 2)
        until(lambda: len(server.server_state.connections) == 1)


def test_an_answer_that_is_read_later_is_whole(server: uvicorn.Server, unread: socket.socket) -> None:
    until(lambda: held(server))
    came = 0
    while came < len(LARGE):
        came += len(unread.recv(2**20))
    until(lambda: not held(server), "the time for reading ends with it")
    unread.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    until(lambda: unread.recv(65_536).endswith(b"0"))


def test_a_connection_that_is_being_closed_waits_no_longer_for_its_reader(
    server: uvicorn.Server, unread: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: held(server))
    (connection,) = server.server_state.connections
    assert isinstance(connection, BoundedHttp)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.2)

    def close() -> None:
        connection.transport.close()
        connection.resume_writing()  # as when all but a little of it was read

    connection.loop.call_soon_threadsafe(close)
    until(lambda: not server.server_state.connections)


def held(server: uvicorn.Server) -> bool:
    """Whether the only connection is to be ended if it is not read."""
    return [one._unread is not None for one in server.server_state.connections if isinstance(one, BoundedHttp)] == [
        True
    ]


def opened(port: int, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    client.sendall(sent)
    return client


ASKED = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", HEAD, ASKED])
def test_connections_that_ask_for_nothing_make_room(
    server: uvicorn.Server, port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.config.limit_concurrency = 4
    monkeypatch.setattr(connections, "MUTE_SECONDS", 0.0)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    idle = [opened(port, sent) for _ in range(3)]
    until(lambda: len(server.server_state.connections) == 3)
    if sent == ASKED:
        assert all(one.recv(1000).startswith(b"HTTP/1.1 200") for one in idle)
    for _ in range(3):
        assert b" 200 " in said(port, LAST % b"/")
    for one in idle:
        one.close()


def test_at_the_limit_only_the_question_whether_it_is_alive_is_answered(server: uvicorn.Server, port: int) -> None:
    """None of these has been idle for long."""
    server.config.limit_concurrency = 3
    idle = [opened(port, b"") for _ in range(5)]
    until(lambda: len(server.server_state.connections) == 5)
    assert b" 200 " in said(port, LAST % b"/healthz")
    assert b" 503 " in said(port, LAST % b"/")
    assert b" 503 " in said(port, LAST % b"/readyz")
    for one in idle:
        one.close()


def test_who_is_being_answered_makes_no_room(
    server: uvicorn.Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.config.limit_concurrency = 2
    monkeypatch.setattr(connections, "MUTE_SECONDS", 0.0)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    answered = opened(port, LAST % b"/later")
    until(lambda: any(isinstance(one, BoundedHttp) and one.cycle for one in server.server_state.connections))
    mute = opened(port, b"")
    until(lambda: len(server.server_state.connections) >= 2)
    said(port, LAST % b"/healthz")
    assert b" 200 " in answered.recv(1000)
    answered.close()
    mute.close()
