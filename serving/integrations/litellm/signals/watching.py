"""Weak signs of quality, watched for in the calls that are logged: what `signals` finds, as feedback with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving.integrations.litellm.decided import key_of, owner_of
from serving.integrations.litellm.request.body import session_of
from serving.integrations.litellm.signals.found import Signal, Signals, prompt_digest
from serving.integrations.litellm.told.log_events import bucket_of
from serving.integrations.outcome import ToldOutcome

Catalogue = Mapping[str, Mapping[str, Any]]


class Watching:
    """Hands `signals` the calls. A candidate counts as stronger than another that costs less, by `catalogue`."""

    def __init__(self, signals: Signals, catalogue: Callable[[], Catalogue]) -> None:
        self._signals, self._catalogue = signals, catalogue

    def answered(self, told: ToldOutcome, kwargs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Feedback that a call which was decided gives: on earlier ones of its session, and on its own answer."""
        log = kwargs["standard_logging_object"]
        session = told.decision.get("session")
        found = self._signals.asked(
            session if isinstance(session, str) else None,
            told.decision_id,
            prompt_digest(log.get("messages")),
            str(told.decision.get("model")),
            self._strength,
        )
        return _documents([*found, *self._of_answer(told.decision_id, kwargs, log)])

    def named(self, kwargs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Feedback that a call to a model by its name gives, on the decision before in its session."""
        log = kwargs.get("standard_logging_object")
        if not isinstance(log, Mapping):
            return []
        parameters = kwargs.get("litellm_params") or {}
        request = parameters.get("proxy_server_request") or {}
        bucket = bucket_of(parameters)
        data = {**(request.get("body") or {}), "proxy_server_request": request}
        session = session_of(data, bucket, owner_of(key_of(parameters)))
        model = str(log.get("model_id") if log.get("model_id") in self._catalogue() else log.get("model_group"))
        return _documents(self._signals.asked(session, None, prompt_digest(log.get("messages")), model, self._strength))

    def _of_answer(self, decision: str, kwargs: Mapping[str, Any], log: Mapping[str, Any]) -> Sequence[Signal]:
        response = log.get("response")
        choices = response.get("choices") if isinstance(response, Mapping) else None
        if not choices:
            return []
        message = choices[0].get("message") or {}
        asked = (kwargs.get("optional_params") or {}).get("response_format")
        return self._signals.answered(
            decision,
            message.get("content"),
            choices[0].get("finish_reason"),
            bool(message.get("tool_calls") or message.get("function_call")),
            asked if isinstance(asked, Mapping) else None,
        )

    def _strength(self, candidate: str) -> float | None:
        price = self._catalogue().get(candidate, {}).get("output_usd_per_mtok")
        return float(price) if isinstance(price, int | float) else None


def _documents(found: Sequence[Signal]) -> list[Mapping[str, Any]]:
    return [{"decision_id": one.decision_id, "quality": one.quality, "source": one.source} for one in found]
