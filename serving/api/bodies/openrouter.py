"""OpenRouter's request fields, as far as they are read: `provider` and the plug-in `auto-router`.

What is not read of them is passed over, and so is a `provider` that is a text, as other gateways have it. Their lists are
bounded as all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from serving.api.bodies.chat import resembling
from serving.api.bodies.fields import Name, refused
from serving.decide.endpoints import Endpoints, Group, Preferences

AUTO_ROUTER = "auto-router"
MOST_NAMES, _MOST_PLUGINS = 64, 64
_MOST_LOOKED_AT, _LONGEST_LOOKED_AT = 32, 40

Models = Annotated[list[Name], Field(max_length=MOST_NAMES, fail_fast=True)]
Slugs = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=MOST_NAMES, fail_fast=True)
]
Seconds = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


def _number(value: Any) -> Any:
    """A price is a number, or a text that is one, as OpenRouter's own catalogue has them."""
    if not isinstance(value, str) or len(value) > _LONGEST_LOOKED_AT:
        return value
    try:
        return float(value)
    except ValueError:
        return value


Price = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="allow", frozen=True)


class MaxPrice(_Read):
    """USD per million tokens; a price that is not known is too high."""

    prompt: Price | None = Field(default=None, description="Highest input price.")
    completion: Price | None = Field(default=None, description="Highest output price.")


class Percentiles(_Read):
    """Seconds by percentile."""

    p50: Seconds | None = None
    p75: Seconds | None = None
    p90: Seconds | None = None
    p95: Seconds | None = None
    p99: Seconds | None = None

    @property
    def high(self) -> float | None:
        """The least of those from the 75th on."""
        return _least([self.p75, self.p90, self.p95, self.p99])


def _latency_branch(latency: Any) -> str | None:
    if isinstance(latency, dict):
        return "<percentiles>"
    return "<seconds>" if isinstance(latency, int | float) and not isinstance(latency, bool) else None


Latency = Annotated[
    Annotated[Seconds, Tag("<seconds>")] | Annotated[Percentiles, Tag("<percentiles>")],
    Discriminator(
        _latency_branch,
        custom_error_type="latency_type",
        custom_error_message="expected a number of seconds, or an object of them by p50, p75, p90, p95 and p99",
    ),
]


class Provider(_Read):
    """OpenRouter's `provider`. `zdr` is `zero_retention`, `data_collection: deny` is `no_training`; the rest is ignored."""

    order: Slugs | None = Field(
        default=None,
        description="Providers in the order in which the same LLM is looked for at them, and fallbacks are tried.",
    )
    only: Slugs | None = Field(default=None, description="Only candidates that are known to be of these providers.")
    ignore: Slugs | None = Field(default=None, description="No candidate that is known to be of these providers.")
    allow_fallbacks: bool | None = Field(
        default=None, description="False: the answer names no fallbacks, and with an `order` nobody else may answer."
    )
    max_price: MaxPrice | None = Field(default=None, description="Highest price in USD per million tokens.")
    preferred_max_latency: Latency | None = Field(
        default=None,
        description="Seconds, at the median or by percentile. Who is slower is chosen only if nobody else is left.",
    )
    max_latency: Latency | None = Field(
        default=None, description="Seconds. A bound, as `max_latency_ms`: on the expected 95th percentile."
    )

    @property
    def most_latency_ms(self) -> float | None:
        """The hard bound in milliseconds; whatever percentile it is for, the 95th keeps to it."""
        latency = self.max_latency
        if isinstance(latency, Percentiles):
            latency = _least([latency.p50, latency.high])
        return None if latency is None else latency * 1e3

    @property
    def slips(self) -> list[tuple[str, str]]:
        """Unknown fields, a few of them, each with the one that it is spelt nearly like."""
        unknown = [name for name in self.model_extra or () if len(name) <= _LONGEST_LOOKED_AT][:_MOST_LOOKED_AT]
        told = [(name, resembling(name, _FIELDS)) for name in unknown]
        return [(f"provider.{name}", f"provider.{meant}") for name, meant in told if meant]


_FIELDS = tuple(Provider.model_fields)


class AutoRouter(_Read):
    """OpenRouter's plug-in `auto-router`; other plug-ins are passed over."""

    id: str
    enabled: bool | None = Field(default=None, description="False: as if it were not there.")
    allowed_models: Models | None = Field(
        default=None, description="Only these models, or those that a pattern with * matches."
    )
    cost_quality_tradeoff: Annotated[float, Field(ge=0, le=10)] | None = Field(
        default=None, description="From 0, quality alone, to 10, the cheapest: 10 less `cost_quality`."
    )


def _object(value: Any) -> Any:
    """A text is another gateway's name of a provider; what is neither would be demanded of nobody."""
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, dict):
        raise PydanticCustomError("provider_type", "expected an object, as OpenRouter has it")
    return value


def _auto_router(value: Any) -> Any:
    named = value.get("id") if isinstance(value, dict) else None
    if not isinstance(named, str) or named.strip().lower().replace("_", "-") != AUTO_ROUTER:
        return None
    return {**value, "id": AUTO_ROUTER}


AnyProvider = Annotated[Provider | None, BeforeValidator(_object)]
Plugins = Annotated[
    list[Annotated[AutoRouter | None, BeforeValidator(_auto_router)]],
    Field(max_length=_MOST_PLUGINS, fail_fast=True),
]


class Asked:
    """What OpenRouter's fields of one body come to. Raises pydantic's ValidationError where they contradict each other."""

    def __init__(
        self,
        models: Sequence[str] | None,
        model: object,
        provider: Provider | None,
        plugins: Sequence[AutoRouter | None] | None,
    ) -> None:
        self._provider = provider or _NOTHING
        self._routers = [
            (f"plugins.{place}", one)
            for place, one in enumerate(plugins or ())
            if one is not None and one.enabled is not False
        ]
        self._models = Group("models", tuple(models or ()))
        if models and isinstance(model, str) and 0 < len(model) <= 256 and model not in models:
            self._models = Group("model and models", (model, *models))

    def tradeoff(self, others: Iterable[str]) -> float | None:
        """Our `cost_quality`, which runs the other way; `others` are the aims that the body has beside it."""
        for field, router in self._routers:
            if router.cost_quality_tradeoff is None:
                continue
            for other in others:
                message = "give at most one of this and {other}; both arrived, leave one of them out"
                raise refused(f"{field}.cost_quality_tradeoff", "one_of", message, other=other)
            return 10.0 - router.cost_quality_tradeoff
        return None

    def check(self) -> None:
        """Raises where the plug-in is there twice, or the providers' lists leave nobody, whoever the candidates are."""
        for field, _ in self._routers[1:]:
            raise refused(f"{field}.id", "one_of", "auto-router arrived before it too; leave one of them out")
        one = self._provider
        only, ignore = one.only or [], one.ignore or []
        order = (one.order or []) if one.allow_fallbacks is False else []
        for field, names in (("provider.only", only), ("provider.order", order)):
            if names and all(any(_within(name, other) for other in ignore) for name in names):
                what = "the whole order, and allow_fallbacks is false" if names is order else "all that it has"
                message = "{what}: the {many} that arrived, are in provider.ignore too; take one out of that"
                raise refused(field, "contradiction", message, what=what, many=str(len(names)))
        if only and order and not any(_within(a, b) or _within(b, a) for a in only for b in order):
            message = (
                "allow_fallbacks is false, and none of the {many} that arrived is in provider.only; add one to that"
            )
            raise refused("provider.order", "contradiction", message, many=str(len(order)))

    def endpoints(self) -> Endpoints | None:
        """Who may answer by these fields; None where they say nothing of that."""
        one, price = self._provider, self._provider.max_price
        groups = [
            self._models,
            *(Group(f"{at}.allowed_models", tuple(r.allowed_models or ())) for at, r in self._routers),
        ]
        only = [Group("provider.only", tuple(one.only or ()))]
        if one.allow_fallbacks is False:
            only.append(Group("provider.order", tuple(one.order or ())))
        found = Endpoints(
            models=tuple(group for group in groups if group.names),
            only=tuple(group for group in only if group.names),
            ignore=tuple(one.ignore or ()),
            input_usd_per_mtok=None if price is None else price.prompt,
            output_usd_per_mtok=None if price is None else price.completion,
        )
        return None if found == _ANYBODY else found

    def preferences(self) -> Preferences | None:
        """Who is to be tried first by these fields; None where they say nothing of that."""
        one, latency = self._provider, self._provider.preferred_max_latency
        median, high = (latency.p50, latency.high) if isinstance(latency, Percentiles) else (latency, None)
        found = Preferences(
            models=self._models.names,
            providers=tuple(one.order or ()),
            latency_ms=None if median is None else median * 1e3,
            latency_p95_ms=None if high is None else high * 1e3,
            fallbacks=one.allow_fallbacks is not False,
        )
        return None if found == _ANYHOW else found


_NOTHING, _ANYBODY, _ANYHOW = Provider(), Endpoints(), Preferences()


def _within(name: str, other: str) -> bool:
    """Whether a provider is another one, or an endpoint of it: deepinfra/turbo is of deepinfra."""
    name, other = name.lower(), other.lower()
    return name == other or name.startswith(f"{other}/")


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
