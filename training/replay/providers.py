"""Where each candidate is asked, by which key and at which price; whatever is missing is told before anything is spent.

In this order: the one endpoint that was given for all; LiteLLM's configuration; the candidate's `[candidate.replay]` table;
LiteLLM, by the candidate's name. Keys come from the environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from serving.bundle.catalogue import Candidate
from training.prices.catalogue import Replay
from training.quality.llm_prices import Cost, GraderError, Price, listed_price, parse_price
from training.replay.errors import ReplayError
from training.replay.litellm_config import Deployment, from_environment, load_config

# Providers of LiteLLM that are nothing but an address that speaks OpenAI's protocol.
_PLAIN = ("openai", "custom_openai", "hosted_vllm", "openai_like")
# Settings of clouds whose libraries find keys by themselves.
_OWN_WAYS = ("aws_", "vertex_")
_SHORTEST_KEY = 8


@dataclass(frozen=True)
class Places:
    """The options that say where candidates are asked."""

    base_url: str | None = None
    api_key_env: str | None = None
    litellm_config: Path | None = None
    idempotent: bool = False


@dataclass(frozen=True)
class Endpoint:
    """Where a candidate is asked: at `url` if it is set, by LiteLLM otherwise, as `model`.

    `rpm`: calls per minute, `parallel`: calls at a time, None without a limit. `idempotent`: the server bills calls with one
    Idempotency-Key once. `settings` is what LiteLLM is told beside the model. `key_from` says where the key is from,
    `key_missing` which variables of the environment are not set.
    """

    candidate: str
    model: str
    cost: Cost
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    key_from: str = "no key"
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    rpm: float | None = None
    parallel: int | None = None
    idempotent: bool = False
    takes_headers: bool = True
    most_output_tokens: int | None = None
    key_missing: str = ""

    @property
    def where(self) -> str:
        """Where it is asked, in a table; a query is not shown, for it may be a key."""
        return f"{self.url.partition('?')[0] if self.url else 'LiteLLM'} as {self.model}"

    def without_key(self, content: bytes) -> bytes:
        """What a server answered, without the key, should it have told that."""
        if self.key is None or len(self.key) < _SHORTEST_KEY:
            return content
        return content.replace(self.key.encode(), b"[key]")


@dataclass(frozen=True)
class Found:
    """The endpoints of candidates, and by candidate what keeps it from being asked: then it may have no endpoint."""

    endpoints: Mapping[str, Endpoint]
    problems: Mapping[str, str]

    def required(self) -> Mapping[str, Endpoint]:
        """The endpoints; raises ReplayError with every candidate that cannot be asked, and why."""
        if self.problems:
            told = "; ".join(f"{name} ({why})" for name, why in self.problems.items())
            raise ReplayError(
                f"cannot be asked: {told}. Every candidate needs an address (--base-url, --litellm-config, or a "
                "[candidate.replay] table in candidates.toml), its key in the environment, and a price (the catalogue, or "
                "--price NAME=INPUT:OUTPUT). Nothing was sent."
            )
        return self.endpoints


def parse_prices(given: Sequence[str]) -> dict[str, Price]:
    """`NAME=INPUT:OUTPUT`, each in USD per million tokens; raises ReplayError."""
    prices: dict[str, Price] = {}
    for text in given:
        name, equals, price = text.rpartition("=")
        if not equals or not name:
            raise ReplayError(
                f"--price {text!r}: expected NAME=INPUT:OUTPUT in USD per million tokens, as in llama=0.15:0.60"
            )
        try:
            prices[name] = parse_price(price, f"--price {name}=")
        except GraderError as error:
            raise ReplayError(str(error)) from None
    return prices


def find_endpoints(
    names: Sequence[str],
    places: Places,
    own: Mapping[str, Replay],
    catalogue: Mapping[str, Candidate],
    prices: Mapping[str, Price],
    litellm: Any,
) -> Found:
    """Where each candidate is asked, and what is missing; raises ReplayError for a configuration that cannot be read."""
    config = load_config(places.litellm_config) if places.litellm_config is not None else {}
    for name in prices:
        if name not in names:
            raise ReplayError(f"--price {name}: is no candidate of the plan, which has {', '.join(names)}")
    found: dict[str, Endpoint] = {}
    problems: dict[str, str] = {}
    for name in names:
        entry = catalogue.get(name)
        known_as = (name, *(entry.aliases if entry is not None else ()))
        try:
            definition = next((config[one] for one in known_as if one in config), own.get(name, Replay()))
            found[name] = _endpoint(name, places, definition, entry, prices.get(name), litellm)
        except _Missing as missing:
            problems[name] = str(missing)
        else:
            if found[name].key_missing:
                problems[name] = f"no key: {found[name].key_missing} not set"
    return Found(found, problems)


class _Missing(Exception):  # noqa: N818  what a candidate lacks is collected, not raised to anybody
    pass


def _endpoint(
    name: str, places: Places, told: Replay, entry: Candidate | None, price: Price | None, litellm: Any
) -> Endpoint:
    model, provider = told.model or name, None
    more = told.settings if isinstance(told, Deployment) else {}
    settings = {key: _resolved(value, key) for key, value in more.items()}
    base = places.base_url or _resolved(told.api_base, "api_base")
    try:
        bare, provider, *_ = litellm.get_llm_provider(model, api_base=base)
    except litellm.exceptions.BadRequestError:
        bare = model
    url = None
    if base is not None and (places.base_url or provider in (None, *_PLAIN)):
        url = _checked_url(base)
        model = bare if provider in _PLAIN and told.model else model
    elif provider is None:
        raise _Missing(f"no address: LiteLLM knows no provider of {model!r}")
    key_env = places.api_key_env if places.base_url else told.api_key_env
    key = os.environ.get(key_env) or None if key_env else None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise _Missing(f"{key_env} holds no key: spaces, line ends or characters that no key has")
    missing = [key_env] if key_env and key is None else []
    if url is None and key_env is None and not any(one.startswith(_OWN_WAYS) for one in settings):
        missing = litellm.validate_environment(model, api_base=base)["missing_keys"]
    cost = _cost(entry, price, model, litellm)
    if url is None and base is not None:
        settings["api_base"] = base
    supported = () if url else litellm.get_supported_openai_params(model=bare, custom_llm_provider=provider) or ()
    takes_headers = url is not None or "extra_headers" in supported
    return Endpoint(
        name,
        model,
        cost,
        url,
        key,
        f"key of {key_env}" if key_env else ("no key" if url else "LiteLLM's own key"),
        settings,
        told.rpm,
        told.parallel,
        (places.idempotent or told.idempotent) and takes_headers,
        takes_headers,
        entry.max_output_tokens if entry is not None else None,
        ", ".join(missing),
    )


def _resolved(value: Any, what: str) -> Any:
    """A value, or that of the variable of the environment that it names."""
    variable = from_environment(value)
    if variable is None:
        return value
    if not os.environ.get(variable):
        raise _Missing(f"{what}: {variable} is not set")
    return os.environ[variable]


def _checked_url(base: str) -> str:
    """The address of chat completions below a base; nothing of one with a password is shown."""
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL:
        raise _Missing("its address is no URL") from None
    if url.userinfo:
        raise _Missing("its address holds a password; keys come from the environment")
    if url.scheme not in ("http", "https") or not url.host:
        raise _Missing("its address does not begin with http:// or https://")
    path = url.path.rstrip("/")
    return str(url.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions"))


def _cost(entry: Candidate | None, price: Price | None, model: str, litellm: Any) -> Cost:
    """What a call costs: as given, by the catalogue, or by LiteLLM's price map."""
    if price is not None:
        return price
    if entry is not None and entry.priced:
        priced: Callable[[float, float], float] = entry.cost_usd
        return priced
    try:
        return listed_price(litellm, model)
    except GraderError:
        raise _Missing("no price") from None
