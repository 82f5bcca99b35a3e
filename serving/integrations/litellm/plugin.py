"""The callback that LiteLLM calls: every hook is defined on the class itself, for LiteLLM skips inherited ones.

What goes wrong in a hook is counted and logged, and the call goes on: to those who may answer it, whatever fails. A call that
nobody may answer, or of which that cannot be told, is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import litellm
from litellm.exceptions import BadRequestError, ServiceUnavailableError
from litellm.integrations.custom_logger import CustomLogger

from serving.client import RouteRefusedError
from serving.integrations.litellm import counters
from serving.integrations.litellm.asking import Asking, Call
from serving.integrations.litellm.decided import Decided, bucket, drop_claimed, found, headers_of, key_of
from serving.integrations.litellm.deciders import Decider, InProcess, decider_of
from serving.integrations.litellm.named import goes_by_name
from serving.integrations.litellm.pick import anything_fits, fitting, picked, window_of
from serving.integrations.litellm.refusals import RefusedError, http_error, said, undecided
from serving.integrations.litellm.request.body import COMPLETIONS
from serving.integrations.litellm.request.names import without_candidates
from serving.integrations.litellm.request.said import keep, strip, strip_metadata
from serving.integrations.litellm.rows import Deployment, candidate_of, id_of, rows_of, unmapped
from serving.integrations.litellm.settings import LiteLLMSettings, announce, settings_of_environment
from serving.integrations.litellm.standing import Standing
from serving.integrations.litellm.told.envelopes import combined
from serving.integrations.litellm.told.outcomes import Outcomes, sinks_of, watching_of
from serving.integrations.litellm.told.spool import Spool

_INLINE = 32 * 1024


class OutcomeRouter(CustomLogger):
    """Routes the calls of the candidates' group, and shadows or routes those of existing groups, by `settings`.

    On a proxy the decision is made before the call, with the key's rights; on a bare `litellm.Router`, which has no such hook,
    in the filter. `attach` tells it of that Router: only the Router says whether pre-call checks are on.
    """

    def __init__(self, settings: LiteLLMSettings | None = None, decider: Decider | None = None) -> None:
        super().__init__()
        self.settings = settings or settings_of_environment()
        self.decider = decider or decider_of(self.settings)
        self._asking = Asking(self.settings, self.decider)
        self._complaints = counters.Complaints()
        self.outcomes = Outcomes(
            self.decider,
            Spool(self.settings.spool, combine=combined),
            watching_of(self.settings, self.decider),
            sinks_of(),
            candidate_of=self._candidate_of,
        )
        self._attached: Any = None
        self._reported: tuple[object, ...] = ()
        self._standing = Standing(self.settings, self.decider, self._complaints)
        if settings is None:
            announce(self.settings)  # imports what the thread that loads does: two at once may see half a module
        if isinstance(self.decider, InProcess):
            self.decider.start()

    def attach(self, router: Any) -> None:
        """Tells of the `litellm.Router` whose calls are routed, where there is no proxy."""
        self._attached = router
        self._standing.look(router)

    # --- before the call ---
    # LiteLLM names every argument, so the hooks have to have those that they do not look at.

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: Any,  # noqa: ARG002
        data: dict[str, Any],
        call_type: str,
    ) -> dict[str, Any] | None:
        """Decides, with the rights of the key, and leaves the decision for the filter; refuses what nobody may answer."""
        try:
            counters.HOOKS.labels("pre_call").inc()
            drop_claimed(data)
            self._stand_last()
            self._standing.look(_router_of_proxy())
            self.outcomes.asked(data, user_api_key_dict)
            await self._before(user_api_key_dict, data, call_type)
        except (RefusedError, RouteRefusedError) as error:
            raise http_error(error) from None
        except Exception as error:  # noqa: BLE001 - the call goes on
            self._fault("pre_call", error)
        return None

    async def _before(self, key: Any, data: MutableMapping[str, Any], call_type: str) -> None:
        group = data.get("model")
        router = _router_of_proxy() or self._attached
        if not isinstance(group, str) or await goes_by_name(self._asking, Call(data, group, key, router)):
            return
        if call_type not in COMPLETIONS or not self._concerns(group):
            return
        decided: Decided | None = None
        try:
            # A name that LiteLLM has no rows for is nobody's: it refuses the call itself, or the filter has what it serves.
            rows = None if router is None else rows_of(router, group)
            if rows is None or rows:
                decided = await self._ask(Call(data, group, key, router), rows if self.settings.own(group) else None)
        finally:
            routed = self.settings.own(group) or (decided is not None and not decided.stays)
            keep(data)
            strip(data, routed=routed)
            strip_metadata(data)
        if decided is not None and not decided.stays:
            data["model"] = decided.group

    def _concerns(self, group: str) -> bool:
        return self.settings.own(group) or self.settings.existing(group)

    async def _ask(self, call: Call, rows: Sequence[Deployment] | None = None) -> Decided | None:
        try:
            decided = await self._asking.about(call, rows)
        except (RefusedError, RouteRefusedError) as error:
            if self.settings.own(call.group):
                counters.REFUSED.labels(str(error.status)).inc()
                raise
            counters.FAILED_OPEN.labels(self.settings.label(call.group)).inc()
            self._complaints.say(*undecided(error, call.key))
            return None
        self._report(call.router)
        return decided

    # --- at each pick of a deployment ---

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: list[Any] | None,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any | None = None,  # noqa: ARG002
    ) -> list[Any]:
        """Leaves the deployments of the best candidate that is healthy and untried. The list comes without cooled-down ones.

        Of a group of candidates never a row of one that may not answer, whatever fails. Other groups are left alone.
        """
        counters.HOOKS.labels("filter").inc()
        if not healthy_deployments:
            return healthy_deployments
        if not self.settings.own(model):
            listed = isinstance(healthy_deployments, list)
            return without_candidates(healthy_deployments, model, self.settings.own) if listed else healthy_deployments
        rows = healthy_deployments if isinstance(healthy_deployments, list) else [healthy_deployments]
        request = {} if request_kwargs is None else request_kwargs
        try:
            decided = await self._decided(model, rows, messages, request)
            left = await self._left(rows, messages, request, decided)
        except (RefusedError, RouteRefusedError) as error:
            raise BadRequestError(
                f"outcome-router: {said(error)}", model=model, llm_provider="outcome-router"
            ) from None
        except Exception as error:  # noqa: BLE001 - its text may be a prompt
            self._fault("filter", error)
            raise _unavailable(model, "it cannot be told at present who may answer this request") from None
        if not left:
            raise _unavailable(model, "none of the candidates that may answer this request is healthy at present")
        return left

    async def _decided(
        self, model: str, deployments: Sequence[Deployment], messages: Any, request: dict[str, Any]
    ) -> Decided:
        """The decision on this call; made here where there is none: on a bare Router, and for what no hook was asked about."""
        known = found(request)
        call = (request.get("litellm_trace_id"), id(messages) if messages is not None else None)
        if known is not None and known.group == model and not known.stays and known.call in (None, call):
            strip(request, routed=True)
            return known
        data = request if messages is None else {**request, "messages": messages}
        proxy, key = _router_of_proxy(), key_of(request)
        if proxy is not None and key is None:
            raise RefusedError(403, "this request does not say whose key it is by, so nobody may answer it")
        router = proxy or self._attached
        decided = await self._ask(Call(data, model, key, router), rows_of(router, model) or deployments)
        if decided is None:
            raise RefusedError(503, "it cannot be told at present who may answer this request")
        decided.call = call
        if proxy is not None:  # on a bare Router the next call may be given the same metadata
            keep(request)
        strip(request, routed=True)
        return decided

    async def _left(
        self, deployments: Sequence[Deployment], messages: Any, request: Mapping[str, Any], decided: Decided
    ) -> list[Deployment]:
        router = _router_of_proxy() or self._attached
        metadata = bucket(dict(request))
        try:
            tokens = await _tokens(router, deployments, messages)
            fits = fitting(router, request, metadata, tokens)
            before = _answered_before(request)
            if before is not None and any(id_of(row) == before for row in deployments):
                fits = partial(_is_row, before)  # while it is there: an answer is gone on with at its provider
            return picked(deployments, decided, request, metadata, fits)
        except Exception as error:  # noqa: BLE001 - the ranks hold without what LiteLLM would check later
            self._fault("filter", error)
            return picked(deployments, decided, {}, {}, anything_fits)

    # --- after the call ---

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,  # noqa: ARG002
        response: object,  # noqa: ARG002
        request_headers: dict[str, str] | None = None,  # noqa: ARG002
        litellm_call_info: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> dict[str, str] | None:
        """The decision as response headers, of streams and of failures too."""
        try:
            counters.HOOKS.labels("headers").inc()
            decided = found(data)
            return None if decided is None or not self.settings.headers else headers_of(decided)
        except Exception as error:  # noqa: BLE001 - the answer goes out without
            self._fault("headers", error)
            return None

    async def async_post_call_success_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,  # noqa: ARG002
        response: Any,
    ) -> Any:
        """Keeps what became of a plain answer, before the client has it."""
        counters.HOOKS.labels("answered").inc()
        await self.outcomes.answered(data, response)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,  # noqa: ARG002
        user_api_key_dict: Any,  # noqa: ARG002
        traceback_str: str | None = None,  # noqa: ARG002
    ) -> None:
        """Keeps that a request came to nothing, its retries and fallbacks spent."""
        counters.HOOKS.labels("failed").inc()
        await self.outcomes.failed(request_data)

    async def async_log_success_event(
        self,
        kwargs: dict[str, Any],
        response_obj: Any,
        start_time: Any,  # noqa: ARG002
        end_time: Any,  # noqa: ARG002
    ) -> None:
        """Keeps what LiteLLM logs of a call: the last word on its cost."""
        counters.HOOKS.labels("logged").inc()
        await self.outcomes.told(kwargs, response_obj, failed=False)

    async def async_log_failure_event(
        self,
        kwargs: dict[str, Any],
        response_obj: Any,
        start_time: Any,  # noqa: ARG002
        end_time: Any,  # noqa: ARG002
    ) -> None:
        """Keeps a failed attempt, which a retry may yet put right."""
        counters.HOOKS.labels("logged_failure").inc()
        await self.outcomes.told(kwargs, response_obj, failed=True)

    # --- upkeep ---

    def _candidate_of(self, deployment: str) -> str | None:
        """The candidate that a deployment's id stands for."""
        router = _router_of_proxy() or self._attached
        row = None if router is None else router.get_model_info(deployment)
        return deployment if row is None else candidate_of(row)

    def complete(self, router: Any, **kwargs: Any) -> Any:
        """What `router.acompletion(**kwargs)` gives, for programs that do not await: `router.completion` skips the plug-in."""
        return asyncio.run(router.acompletion(**kwargs))

    def _fault(self, hook: str, error: Exception) -> None:
        counters.FAULTS.labels(hook).inc()
        self._complaints.say(hook, f"the router's {hook} hook failed, the call goes on without it", error)

    def _stand_last(self) -> None:
        """Behind the other callbacks: one that takes deployments away after this one may leave none."""
        standing = litellm.callbacks
        if self in standing and standing[-1] is not self:
            # Another list: the one that stands may be gone through by another call just now.
            litellm.callbacks = [*(one for one in standing if one is not self), self]

    def _report(self, router: Any) -> None:
        """Says once, for each bundle and model list, which rows and candidates do not match."""
        catalogue = self.decider.catalogue
        rows = rows_of(router, self.settings.group)
        reference = self.decider.reference
        state = (tuple(catalogue), reference, tuple(id_of(row) for row in rows))
        if not rows or state == self._reported:
            return
        self._reported = state
        wrong = unmapped(self.settings.group, rows, catalogue, reference)
        if wrong is not None:
            self._complaints.say(f"rows {hash(state)}", wrong)


def _router_of_proxy() -> Any:
    """The proxy's Router; None where no proxy runs in this process."""
    import sys

    server = sys.modules.get("litellm.proxy.proxy_server")
    return getattr(server, "llm_router", None)


async def _tokens(router: Any, deployments: Sequence[Deployment], messages: Any) -> int | None:
    """The prompt's tokens as LiteLLM counts them, where its pre-call checks hold them against a window; else None."""
    if messages is None or not getattr(router, "enable_pre_call_checks", False):
        return None
    windows = [window for row in deployments if (window := window_of(row)) is not None]
    characters = len(str(messages))
    if not windows or characters <= min(windows):  # no token is shorter than a character
        return None
    if characters <= _INLINE:
        return litellm.token_counter(messages=messages)
    return await asyncio.to_thread(litellm.token_counter, messages=messages)


def _answered_before(request: Mapping[str, Any]) -> str | None:
    """The deployment that gave the answer which a request of the Responses API goes on with."""
    previous = request.get("previous_response_id")
    if not isinstance(previous, str):
        return None
    from litellm.responses.utils import ResponsesAPIRequestUtils

    return ResponsesAPIRequestUtils.get_model_id_from_response_id(previous)


def _is_row(identifier: str, row: Deployment) -> bool:
    return id_of(row) == identifier


def _unavailable(model: str, why: str) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"outcome-router: {why}", model=model, llm_provider="outcome-router")
