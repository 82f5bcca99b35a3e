"""Outcomes to Langfuse: decisions as spans over OTLP/HTTP, their numbers over the scores API.

Sending again changes nothing. A score overwrites itself, for its id, name and day are the same. A span does not: Langfuse 4
keeps each copy of what it is sent. So a span is sent again only after Langfuse was asked whether it has it, where an earlier
attempt may have arrived: its answer was lost, or another process may have made it (the outcome is older than this one).

An outcome that Langfuse refuses for what it is gets dropped, counted and logged; everything else raises SinkError.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
from cachetools import LRUCache

from serving.integrations.langfuse import payload
from serving.integrations.langfuse.ids import span_of
from serving.integrations.langfuse.replies import REFUSED, Reply, raise_for, reply_of
from serving.integrations.outcome import SinkError, ToldOutcome
from serving.settings import LangfuseSettings

_LOG = logging.getLogger(__name__)
_TRACES, _SCORES, _OLDER = "/api/public/otel/v1/traces", "/api/public/scores", "/api/public/ingestion"
_OBSERVATIONS = "/api/public/v2/observations"
# Langfuse takes 1 MB of scores in one request, a decision's are about 4 kB.
_BATCH, _REMEMBERED, _PAGE, _PAGES = 100, 65_536, 1000, 5
# How long a span that arrived may take to be found, and how old an outcome is that another process may have sent.
SETTLE_SECONDS, FRESH_SECONDS = 15.0, 60.0
Score = Mapping[str, Any]


class LangfuseSink:
    """A `Sink` of one Langfuse project. `refused` is how many spans and scores it would not have."""

    def __init__(
        self,
        host: str,
        public_key: str,
        secret_key: str,
        http: httpx.AsyncClient | None = None,
        *,
        environment: str | None = None,
        timeout_seconds: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.refused = 0
        self._host = (host if "://" in host else f"https://{host}").rstrip("/")
        self._auth = (public_key, secret_key)
        self._http = http or httpx.AsyncClient()
        self._environment, self._timeout, self._clock = environment, timeout_seconds, clock
        self._since = clock()
        self._sent: LRUCache[str, bool] = LRUCache(_REMEMBERED)
        self._doubtful: LRUCache[str, float] = LRUCache(_REMEMBERED)  # span -> when it may have arrived
        self._can_be_asked = True
        self._lists: bool | None = None  # whether the server takes scores as a list; None: not known yet

    async def send(self, told: Sequence[ToldOutcome]) -> None:
        """Bring each outcome's span and scores to Langfuse; raises SinkError."""
        now = self._clock()
        waits: list[float] = []
        for start in range(0, len(told), _BATCH):
            batch = {one.decision_id: one for one in told[start : start + _BATCH]}
            unsettled = {name: wait for name, one in batch.items() if (wait := self._wait(one, now)) > 0}
            waits += unsettled.values()
            ready = [one for name, one in batch.items() if name not in unsettled]
            await self._send_spans(self._built(ready, lambda one: [payload.span(one, self._environment)]), ready)
            await self._send_scores(self._built(ready, lambda one: payload.scores(one, self._environment)))
        if waits:
            raise SinkError(
                f"Langfuse may have {len(waits)} decisions already, and can be asked whether in {max(waits):.0f} s",
                retry_after_seconds=max(waits),
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _built(
        self, ready: Sequence[ToldOutcome], build: Callable[[ToldOutcome], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        found = []
        for one in ready:
            try:
                found += build(one)
            except (ValueError, TypeError, OverflowError) as error:  # what was stored is no outcome that has a time
                self._refuse(1, f"cannot be sent: {error}")
        return found

    def _wait(self, told: ToldOutcome, now: float) -> float:
        """Seconds until Langfuse can be asked whether it has a decision; 0 where it need not be, or can be."""
        span = span_of(told.decision_id)
        if span in self._sent or not self._can_be_asked:
            return 0.0
        if span in self._doubtful:
            return max(0.0, self._doubtful[span] + SETTLE_SECONDS - now)
        return max(0.0, self._since + SETTLE_SECONDS - now) if told.ended < self._since else 0.0

    def _to_be_asked(self, told: ToldOutcome, now: float) -> bool:
        """Whether somebody may have sent the decision's span before."""
        return span_of(told.decision_id) in self._doubtful or told.ended < max(self._since, now - FRESH_SECONDS)

    async def _send_spans(self, spans: Sequence[dict[str, Any]], ready: Sequence[ToldOutcome]) -> None:
        unsent = [one for one in spans if one["spanId"] not in self._sent]
        now = self._clock()
        doubted = {span_of(one.decision_id) for one in ready if self._to_be_asked(one, now)}
        asked = [one for one in unsent if one["spanId"] in doubted]
        if asked and self._can_be_asked:
            for span in await self._known(sorted(asked, key=lambda one: int(one["startTimeUnixNano"]))):
                self._sent[span] = True
            unsent = [one for one in unsent if one["spanId"] not in self._sent]
        await self._export(unsent)

    async def _export(self, spans: Sequence[dict[str, Any]]) -> None:
        if not spans:
            return
        identifiers = [one["spanId"] for one in spans]
        # Until an answer says better: the attempt may be cut short while it is under way.
        self._doubtful.update(dict.fromkeys(identifiers, self._clock()))
        try:
            reply = await self._post(_TRACES, payload.export_request(spans))
        except SinkError as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
                self._forget(identifiers)
            raise
        if 300 <= reply.status < 500 and reply.status != 408:
            self._forget(identifiers)
        if reply.status in REFUSED:
            if len(spans) == 1:
                self._sent[identifiers[0]] = True
                return self._refuse(1, f"{_TRACES} answered {reply.shown}")
            half = len(spans) // 2
            await self._export(spans[:half])
            return await self._export(spans[half:])
        raise_for(reply, _TRACES)
        self._sent.update(dict.fromkeys(identifiers, True))
        self._forget(identifiers)
        if rejected := reply.rejected_spans:  # OTLP's partial success: those must not be repeated
            self._refuse(rejected, f"{_TRACES} took part of a batch: {reply.shown}")

    def _forget(self, identifiers: Sequence[str]) -> None:
        """Take away the doubt whether these spans have arrived."""
        for span in identifiers:
            self._doubtful.pop(span, None)

    async def _known(self, spans: Sequence[dict[str, Any]]) -> set[str]:
        """Which of some spans, sorted by time, Langfuse has."""
        first, last = (int(one["startTimeUnixNano"]) / 1e9 for one in (spans[0], spans[-1]))
        query = {
            "name": payload.SPAN, "fields": "core", "limit": str(_PAGE),
            "fromStartTime": _instant(first - 0.001), "toStartTime": _instant(last + 0.002),
        }  # fmt: skip
        wanted, found = {one["spanId"] for one in spans}, set[str]()
        for _ in range(_PAGES):
            reply = await self._reply("GET", _OBSERVATIONS, params=query)
            if reply.status in (400, 404, 405, 501):
                # A server without this API is one that keeps the last copy of a span alone.
                _LOG.info("Langfuse cannot be asked for its observations (%s): spans are sent again", reply.status)
                self._can_be_asked = False
                return set()
            raise_for(reply, _OBSERVATIONS)
            found |= wanted & reply.identifiers
            if found == wanted or reply.cursor is None:
                return found
            query["cursor"] = reply.cursor
        if len(spans) == 1:
            return found
        half = len(spans) // 2  # too many others in between
        return await self._known(spans[:half]) | await self._known(spans[half:])

    async def _send_scores(self, scores: Sequence[Score]) -> None:
        if not scores:
            return
        if self._lists is False:
            return await self._ingest(scores)
        reply = await self._post(_SCORES, orjson.dumps(list(scores)))
        if reply.status in REFUSED:
            if self._lists is None and await self._is_older(scores):
                return
            if len(scores) == 1:
                return self._refuse(1, f"{_SCORES} answered {reply.shown}")
            half = len(scores) // 2
            await self._send_scores(scores[:half])
            return await self._send_scores(scores[half:])
        raise_for(reply, _SCORES)
        self._lists = True
        if reply.rejected_scores:  # of a list some were not taken: to be repeated neither
            self._refuse(reply.rejected_scores, f"{_SCORES} took part of a list: {reply.shown}")

    async def _is_older(self, scores: Sequence[Score]) -> bool:
        """Whether a server that takes no list takes the scores as events, as Langfuse 3 does; then they are sent."""
        try:
            await self._ingest(scores)
        except SinkError as error:
            if error.retryable:
                raise
            return False
        self._lists = False
        return True

    async def _ingest(self, scores: Sequence[Score]) -> None:
        stamp = [
            {"id": one["id"], "type": "score-create", "timestamp": one["timestamp"], "body": one} for one in scores
        ]
        reply = await self._post(_OLDER, orjson.dumps({"batch": stamp}))
        raise_for(reply, _OLDER)
        refused, later = reply.failed_events
        if refused:
            self._refuse(refused, f"{_OLDER} took part of a batch: {reply.shown}")
        if later:
            raise SinkError(f"Langfuse: {_OLDER} could not take {later} of {len(scores)} scores now")

    async def _post(self, path: str, body: bytes) -> Reply:
        return await self._reply("POST", path, content=body, headers={"Content-Type": "application/json"})

    async def _reply(self, method: str, path: str, **arguments: Any) -> Reply:
        headers = {"x-langfuse-ingestion-version": "4", **arguments.pop("headers", {})}
        try:
            answer = await self._http.request(
                method, self._host + path, auth=self._auth, headers=headers, timeout=self._timeout, **arguments
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SinkError(f"Langfuse: {path} gave no answer ({type(error).__name__})") from error
        return reply_of(answer)

    def _refuse(self, count: int, why: str) -> None:
        self.refused += count
        _LOG.warning("Langfuse refused %d of what was sent, which is dropped: %s", count, why)


def langfuse_sink_of(settings: LangfuseSettings | None = None) -> LangfuseSink | None:
    """The sink that the environment asks for; None unless it does. Raises ValueError when a key is missing."""
    settings = LangfuseSettings() if settings is None else settings
    if not settings.write_back:
        return None
    public, secret = settings.public_key, settings.secret_key
    if public is None or secret is None:
        names = [
            name for name, key in (("LANGFUSE_PUBLIC_KEY", public), ("LANGFUSE_SECRET_KEY", secret)) if key is None
        ]
        raise ValueError(
            f"ROUTER_LITELLM_LANGFUSE is on and {' and '.join(names)} not set: expected a project's API keys in the environment"
        )
    return LangfuseSink(settings.host, public, secret.get_secret_value(), environment=settings.environment)


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(max(0.0, seconds), UTC).isoformat(timespec="milliseconds")
