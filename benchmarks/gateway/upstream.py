"""Fake LLMs behind one address, in OpenAI's protocol: each answers what its model's name asks for, and bills.

`python -m benchmarks.gateway.upstream PORT PRICES` serves until it is ended; PRICES is a JSON file of USD per million tokens,
in and out, by model. GET /bill is what each call cost, by the mark `#...#` in its last message.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

_MARK = re.compile(r"#([\w-]+)#")
_HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
_CHUNKS = 4


class Upstream:
    """Bills by the price of the model that was asked; a model in `dead` answers 500."""

    def __init__(self, prices: Mapping[str, tuple[float, float]], wait_seconds: float = 0.0) -> None:
        self.prices, self.wait_seconds = prices, wait_seconds
        self.dead: set[str] = set()
        self.bill: dict[str, list[dict[str, Any]]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if head.startswith("GET /bill"):
                    self._send(writer, 200, json.dumps(self.bill).encode())
                elif head.startswith("POST"):
                    await self._answer(writer, json.loads(body))
                else:
                    self._send(writer, 200, b"{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        if self.wait_seconds:
            await asyncio.sleep(self.wait_seconds)
        name, text = str(body["model"]), json.dumps(body["messages"][-1])
        if name in self.dead or f"die:{name}" in text or "die:all" in text:
            self._send(writer, 500, b'{"error": {"message": "not today"}}')
            return
        usage = self._billed(name, text)
        whole = {"id": "chatcmpl-fake", "object": "chat.completion", "created": 1, "model": name}
        if body.get("stream"):
            self._stream(writer, {**whole, "object": "chat.completion.chunk"}, usage)
            return
        message = {"role": "assistant", "content": f"An answer of {name}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send(writer, 200, json.dumps({**whole, "choices": [choice], "usage": usage}).encode())

    def _billed(self, name: str, text: str) -> dict[str, int]:
        sent, got = len(text) // 4 + 1, 1 + blake2b(text.encode(), digest_size=1).digest()[0]
        paid, earned = self.prices[name]
        mark = _MARK.search(text)
        line = {"model": name, "cost_usd": sent * paid / 1e6 + got * earned / 1e6}
        self.bill.setdefault(mark[1] if mark else "", []).append(line)
        return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}

    def _stream(self, writer: asyncio.StreamWriter, chunk: Mapping[str, Any], usage: Mapping[str, int]) -> None:
        deltas: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "word "}, "finish_reason": None}]}
            for _ in range(_CHUNKS)
        ]
        deltas.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        deltas.append({"choices": [], "usage": usage})
        lines = b"".join(b"data: " + json.dumps({**chunk, **one}).encode() + b"\n\n" for one in deltas)
        self._send(writer, 200, lines + b"data: [DONE]\n\n", b"text/event-stream")

    @staticmethod
    def _send(writer: asyncio.StreamWriter, status: int, body: bytes, kind: bytes = b"application/json") -> None:
        writer.write(_HEAD % (status, kind, len(body)) + body)


async def _main(port: int, prices: Path) -> None:
    upstream = Upstream(json.loads(prices.read_text(encoding="utf-8")))
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
