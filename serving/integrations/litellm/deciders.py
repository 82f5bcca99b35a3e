"""Who decides: a router in this process, or one over HTTP. Either gives an answer, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import orjson

from serving.api.bounds import is_small
from serving.client import AsyncRouterClient, FeedbackError, Route, RouteRefusedError
from serving.client.answers import unavailable
from serving.client.breaker import MOST_WAIT_SECONDS
from serving.client.exchange import content_of
from serving.integrations.litellm.request.sizes import is_short, without_pictures
from serving.integrations.litellm.settings import LiteLLMSettings
from serving.integrations.litellm.standing import Instead
from serving.integrations.outcome import ToldOutcome

logger = logging.getLogger(__name__)

Catalogue = Mapping[str, Mapping[str, Any]]
NOBODY = "(the first row)"  # the fallback's name where no reference is known
_LEARN_SECONDS = 5.0
_RELOAD_SECONDS = 30.0


class Decider(Protocol):
    """Decides on bodies of POST /v1/route, and takes feedback."""

    @property
    def reference(self) -> str | None:
        """Who answers while nobody decides: as set, or that of the bundle, None before it is known."""

    @property
    def catalogue(self) -> Catalogue:
        """What the bundle says of each candidate; nothing before it is known."""

    async def decide(self, body: Mapping[str, Any]) -> Route:
        """The route; one with `failed` where there is no decision. Raises RouteRefusedError alone."""

    async def known(self) -> None:
        """Waits a little for the catalogue, where it is not known yet and can be had."""

    async def feedback(self, said: Sequence[Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
        """What became of each; raises FeedbackError where it is not known to be stored."""

    async def close(self) -> None:
        """Ends what was begun."""


def decider_of(settings: LiteLLMSettings) -> Decider:
    """The decider that the settings ask for. Nothing is loaded and nobody is asked yet."""
    if settings.url is not None:
        return OverHttp(settings)
    return InProcess(settings)


class OverHttp:
    """A router over HTTP, behind the client's circuit breaker; its catalogue is asked for beside the calls.

    The first call that needs it waits for it, once; where that was in vain nobody waits again. It is asked for again after
    `retry_after_seconds`, and each time that fails after twice as long, up to a minute.
    """

    def __init__(self, settings: LiteLLMSettings) -> None:
        assert settings.url is not None
        self._catalogue: Catalogue = {}
        self._reference = settings.reference
        self._settings = settings
        self.instead = Instead(settings)
        self._client = _Client(
            lambda: self.instead.said(self.reference),
            settings.url,
            fallback=settings.reference or NOBODY,
            api_key=settings.api_key,
            timeout_seconds=settings.timeout_seconds,
            retry_after_seconds=settings.retry_after_seconds,
        )
        self._apart = _LoopApart()
        self._learnt: str | None = None
        self._learning: asyncio.Task[None] | None = None
        self._waited = False  # in vain: the next call does not
        self._not_asked_until = float("-inf")
        self._wait = self._first_wait = min(settings.retry_after_seconds, MOST_WAIT_SECONDS)

    @property
    def reference(self) -> str | None:
        return self._reference

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    async def decide(self, body: Mapping[str, Any]) -> Route:
        if is_short(body):
            route = await self._client.route(without_pictures(body))
        else:  # writing it as JSON would hold up the other calls
            route = await self._apart.run(lambda: self._client.route(without_pictures(body)))
        if route.failed:
            return unavailable(self.reference or NOBODY)
        if route.bundle != self._learnt:
            self._begin_to_learn(route.bundle)
        return route

    async def known(self) -> None:
        if self._catalogue or time.monotonic() < self._not_asked_until:
            return
        task = self._begin_to_learn(None)
        if self._waited or self._client.is_open:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), self._settings.timeout_seconds)
        self._waited = not self._catalogue

    def _begin_to_learn(self, bundle: str | None) -> asyncio.Task[None]:
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(bundle))
        return self._learning

    async def _learn(self, bundle: str | None) -> None:
        """Takes over the candidates and the reference of the bundle that decides now; tried again if it fails."""
        import httpx

        assert self._settings.url is not None
        try:
            async with asyncio.timeout(_LEARN_SECONDS), httpx.AsyncClient(base_url=self._settings.url) as http:
                said = orjson.loads(await content_of(http, "/v1/candidates"))
            catalogue = {str(one["name"]): one for one in said["candidates"] if isinstance(one, Mapping)}
            self._catalogue = catalogue
            self._reference = self._settings.reference or str(said["reference"])
            self._learnt = bundle
            self._wait = self._first_wait
        except Exception as error:  # noqa: BLE001 - it is asked again, and no call waits for it
            self._not_asked_until = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, MOST_WAIT_SECONDS)
            logger.warning("outcome-router: the router's candidates could not be read (%s)", type(error).__name__)

    async def feedback(self, said: Sequence[Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
        return await self._client.feedback(said)

    async def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
        self._apart.close()
        await self._client.close()


class _Client(AsyncRouterClient):
    """The client, whose line in the log says who answers instead by LiteLLM's rows."""

    def __init__(self, instead: Callable[[], str], url: str, **options: Any) -> None:
        self._said_instead = instead
        super().__init__(url, **options)

    def _instead(self) -> str:
        return self._said_instead()


class _LoopApart:
    """An event loop in a thread of its own, from its first use on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, make: Callable[[], Coroutine[Any, Any, Route]]) -> Route:
        """What the coroutine gives, which is made and run there."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="router-long", daemon=True).start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self._loop))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


class InProcess:
    """A service in this process, loaded by a thread from the first call on; a bundle that cannot be loaded is tried again."""

    def __init__(self, settings: LiteLLMSettings, load: Callable[[], Any] | None = None) -> None:
        self._settings = settings
        self._load = load or _service
        self._service: Any = None
        self.instead = Instead(settings)
        self._known: tuple[Any, Catalogue] | None = None  # a manifest, and its candidates
        self._there = threading.Event()
        self._lock = threading.Lock()
        self._tried = float("-inf")
        self._loading: threading.Thread | None = None

    @property
    def reference(self) -> str | None:
        if self._settings.reference is not None or self._service is None:
            return self._settings.reference
        return str(self._service.live.current.router.manifest.reference)

    @property
    def catalogue(self) -> Catalogue:
        if self._service is None:
            return {}
        manifest = self._service.live.current.router.manifest
        if self._known is None or self._known[0] is not manifest:
            self._known = manifest, {one.name: one.model_dump() for one in manifest.candidates}
        return self._known[1]

    async def decide(self, body: Mapping[str, Any]) -> Route:
        service = self._service or await self._loaded()
        if service is None:
            return unavailable(self.reference or NOBODY)
        try:
            if is_short(body):
                return await _decided(service, self._settings.api_key, orjson.dumps(body, default=str))
            return await asyncio.to_thread(lambda: asyncio.run(_long(service, self._settings.api_key, body)))
        except RouteRefusedError:
            raise
        except Exception:  # the call goes on without a decision
            logger.exception("outcome-router: a decision failed: %s", self.instead.said(self.reference))
            return unavailable(self.reference or NOBODY)

    async def known(self) -> None:
        if self._service is None:
            await self._loaded()

    async def feedback(self, said: Sequence[Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
        service = self._service or await self._loaded()
        if service is None:
            raise FeedbackError("the bundle is not loaded")
        if service.store is None:
            raise FeedbackError("this router stores no decisions (ROUTER_STORE is empty)", status=404)
        return await _fed_back(service, self._settings.api_key, said)

    async def restore(self, missing: Sequence[ToldOutcome]) -> int:
        """Stores decisions that are missing because the process that made them was killed; how many."""
        from serving.integrations.litellm.told.restored import restore

        service = self._service or await self._loaded()
        if service is None or service.store is None:
            return 0
        secret = self._settings.api_key
        return restore(service.store, missing, None if secret is None else service.rules.key_of(secret))

    async def close(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            await asyncio.to_thread(service.close)

    async def _loaded(self) -> Any:
        """The service, waited for while its first load lasts; None where it cannot be loaded at present."""
        self.start()
        if not self._there.is_set():
            await asyncio.to_thread(self._there.wait, self._settings.load_seconds)
        return self._service

    def start(self) -> None:
        """Begins to load, unless that is under way, or failed a moment ago."""
        with self._lock:
            begun = self._loading is not None and self._loading.is_alive()
            if self._service is not None or begun or time.monotonic() - self._tried < _RELOAD_SECONDS:
                return
            self._tried = time.monotonic()
            self._loading = threading.Thread(target=self._try, name="router-load", daemon=True)
            self._loading.start()

    def _try(self) -> None:
        try:
            self._service = self._load()
        except Exception as error:  # noqa: BLE001 - the calls go to the reference until it can be loaded
            instead = self.instead.said(self.reference)
            logger.error(
                "outcome-router: no decisions: %s (tried again every %g s); %s", error, _RELOAD_SECONDS, instead
            )
        finally:
            self._there.set()


def _service() -> Any:
    """A started service by the settings of the environment; raises BundleError, RulesError or StoreError."""
    from serving.runtime.pipeline import Service
    from serving.settings import Settings

    made = Service(Settings())
    made.start()
    return made


async def _long(service: Any, secret: str | None, body: Mapping[str, Any]) -> Route:
    return await _decided(service, secret, orjson.dumps(body, default=str))


async def _decided(service: Any, secret: str | None, content: bytes) -> Route:
    """What POST /v1/route would answer; raises RouteRefusedError."""
    from serving.api.endpoints import decided
    from serving.api.problems import problem_of
    from serving.client.answers import route_from

    key = None if secret is None else service.rules.key_of(secret)
    try:
        if is_small(content):
            _, _, document = await decided(service, key, content)
        else:
            decide = partial(decided, service, key, content)
            _, _, document = await asyncio.to_thread(lambda: asyncio.run(decide()))
        return route_from(document)
    except Exception as error:
        problem = problem_of(error, "/v1/route")
        if problem["status"] in (402, 403, 422):
            raise RouteRefusedError(int(str(problem["status"])), problem) from None
        raise


async def _fed_back(
    service: Any, secret: str | None, said: Sequence[Mapping[str, Any]]
) -> list[str | Mapping[str, Any]]:
    from pydantic import ValidationError

    from serving.api.bodies.feedback import FeedbackBody
    from serving.api.problems import problem_of
    from serving.store.writer import NotStoredError

    key = None if secret is None else service.rules.key_of(secret)
    results: list[Any] = []
    for one in said:
        given = orjson.dumps({name: value for name, value in one.items() if value is not None})
        try:
            results.append(FeedbackBody.model_validate_json(given).feedback())
        except ValidationError as error:
            results.append(error)
    told = [one for one in results if not isinstance(one, ValidationError)]
    try:
        came = iter(await service.recorder.feedback(told, key)) if told else iter(())
    except (NotStoredError, TimeoutError) as error:
        raise FeedbackError(str(error) or "not in time", retry_after_seconds=1.0) from None
    results = [one if isinstance(one, ValidationError) else next(came) for one in results]
    return [
        {"status": 422, "title": "not valid"}
        if isinstance(one, ValidationError)
        else one
        if isinstance(one, str)
        else problem_of(one, "/v1/feedback")
        for one in results
    ]
