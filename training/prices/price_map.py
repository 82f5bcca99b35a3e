"""What public price lists say of an LLM: LiteLLM's bundled price map, and OpenRouter's `/models` listing.

Both are read as files. Neither knows where an LLM is hosted for its user, in which regions, or what is retained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.prices.catalogue import CatalogueError

PRICES = ("input_usd_per_mtok", "output_usd_per_mtok", "cache_read_usd_per_mtok", "cache_write_usd_per_mtok")
# What generates text; the rest of the map (embeddings, images, speech) is no candidate.
_MODES = frozenset({"chat", "completion", "responses"})
# LiteLLM's own names of routes to one provider, where they differ from the provider's.
_ROUTES = {
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "text-completion-openai": "openai",
    "text-completion-codestral": "codestral",
    "azure_text": "azure",
}

Value = str | int | float | bool


@dataclass(frozen=True)
class Facts:
    """What one list says of one LLM: fields of `serving.bundle.catalogue.Candidate` (prices USD per million tokens)."""

    key: str
    source: str
    fields: Mapping[str, Value]


@dataclass(frozen=True)
class PriceList:
    """A source of facts by key; `short` are the keys by what follows any of their slashes."""

    facts: Mapping[str, Facts]
    short: Mapping[str, tuple[str, ...]]
    providers: frozenset[str]

    def find(self, names: Iterable[str], provider: str | None) -> Facts | str:
        """The facts for the first of a candidate's names that the list knows, or why there are none.

        A name is a key as it is, or without a prefix that is the provider of what follows it; a name without a provider also
        stands for a key that ends in it, if one alone does or the candidate's `provider` tells which.
        """
        why = "not listed"
        for name in names:
            keys = self._keys(name, provider)
            if len(keys) == 1:
                return self.facts[keys[0]]
            if keys:
                why = f"listed as {_some(keys)}: add the right one to its aliases, or its provider"
        return why

    def _keys(self, name: str, provider: str | None) -> list[str]:
        if name in self.facts:
            return [name]
        prefix, _, rest = name.partition("/")
        if rest in self.facts and self.facts[rest].fields.get("provider") == prefix:
            return [rest]
        if rest and prefix in self.providers:
            return []
        keys = list(self.short.get(name, ()))
        of_provider = [key for key in keys if self.facts[key].fields.get("provider") == provider]
        return of_provider if provider is not None and len(of_provider) == 1 else keys


def litellm_prices() -> PriceList:
    """The price map in the installed litellm package; raises CatalogueError where there is none."""
    folder = litellm_folder()
    if folder is None:
        raise CatalogueError(
            "litellm is not installed; its package holds the price map. Install it, or give --openrouter models.json"
        )
    path = folder / "model_prices_and_context_window_backup.json"
    entries = _json(path)
    if not isinstance(entries, dict):
        raise CatalogueError(f"{path}: got a JSON {type(entries).__name__}; expected one object per LLM, by name")
    return _price_list(
        f"LiteLLM price map {version('litellm')}",
        {key: _from_litellm(entry) for key, entry in entries.items() if _generates(key, entry)},
    )


def openrouter_prices(path: Path) -> PriceList:
    """A saved answer of OpenRouter's `/models`; raises CatalogueError when the file is not one."""
    document = _json(path)
    models = document.get("data") if isinstance(document, dict) else document
    if not isinstance(models, list) or not all(isinstance(one, dict) and "id" in one for one in models):
        raise CatalogueError(
            f'{path}: expected what https://openrouter.ai/api/v1/models answers, {{"data": [{{"id": ..., "pricing": ...}}]}}'
        )
    return _price_list(f"OpenRouter {path.name}", {str(one["id"]): _from_openrouter(one) for one in models})


def litellm_folder() -> Path | None:
    """The folder of the installed litellm package, whose data are read as files, for importing it takes seconds; or None."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _price_list(name: str, fields: Mapping[str, Mapping[str, Value]]) -> PriceList:
    facts = {key: Facts(key, f"{name}, {key}", found) for key, found in fields.items()}
    short: dict[str, list[str]] = {}
    for key in facts:
        parts = key.split("/")
        for start in range(1, len(parts)):
            short.setdefault("/".join(parts[start:]), []).append(key)
    providers = frozenset(str(found["provider"]) for found in fields.values() if "provider" in found)
    return PriceList(facts, {end: tuple(keys) for end, keys in short.items()}, providers)


def _generates(key: str, entry: object) -> bool:
    return key != "sample_spec" and isinstance(entry, dict) and entry.get("mode") in _MODES


def _from_litellm(entry: Mapping[str, Any]) -> dict[str, Value]:
    """A price of 0 is left out: the map has it for what is paid for otherwise, by hardware or subscription."""
    route = entry.get("litellm_provider")
    provider = route.partition("-")[0] if isinstance(route, str) and route.startswith("vertex_ai-") else route
    found = {
        "provider": _ROUTES.get(str(provider), provider),
        "input_usd_per_mtok": _per_mtok(entry.get("input_cost_per_token")) or None,
        "output_usd_per_mtok": _per_mtok(entry.get("output_cost_per_token")) or None,
        "cache_read_usd_per_mtok": _per_mtok(entry.get("cache_read_input_token_cost")) or None,
        "cache_write_usd_per_mtok": _per_mtok(entry.get("cache_creation_input_token_cost")) or None,
        "cache_minimum_tokens": _count(entry.get("prompt_cache_min_tokens")),
        "context_window": _count(entry.get("max_input_tokens")),
        "max_output_tokens": _count(entry.get("max_output_tokens")),
        "tools": _flag(entry.get("supports_function_calling")),
        "vision": _flag(entry.get("supports_vision")),
        "json_schema": _flag(entry.get("supports_response_schema")),
        "audio": _flag(entry.get("supports_audio_input")),
        "pdf": _flag(entry.get("supports_pdf_input")),
        "video": _flag(entry.get("supports_video_input")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _from_openrouter(entry: Mapping[str, Any]) -> dict[str, Value]:
    """Prices are text, USD per token; a negative one means that it varies. A parameter that is not listed is not supported."""
    pricing, top = _mapping(entry.get("pricing")), _mapping(entry.get("top_provider"))
    supported = entry.get("supported_parameters")
    inputs = _mapping(entry.get("architecture")).get("input_modalities")
    found = {
        "provider": "openrouter",
        "input_usd_per_mtok": _per_mtok(pricing.get("prompt")),
        "output_usd_per_mtok": _per_mtok(pricing.get("completion")),
        "cache_read_usd_per_mtok": _per_mtok(pricing.get("input_cache_read")),
        "cache_write_usd_per_mtok": _per_mtok(pricing.get("input_cache_write")),
        "context_window": _count(top.get("context_length")) or _count(entry.get("context_length")),
        "max_output_tokens": _count(top.get("max_completion_tokens")),
        "tools": "tools" in supported if isinstance(supported, list) else None,
        "vision": "image" in inputs if isinstance(inputs, list) else None,
        "json_schema": "structured_outputs" in supported if isinstance(supported, list) else None,
        "audio": "audio" in inputs if isinstance(inputs, list) else None,
        "pdf": "file" in inputs if isinstance(inputs, list) else None,
        "video": "video" in inputs if isinstance(inputs, list) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _per_mtok(value: object) -> float | None:
    """USD per token, a number or text, as USD per million tokens; None for anything that is no price."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        price = Decimal(str(value)) * 1_000_000
    except InvalidOperation:
        return None
    return float(price) if price.is_finite() and price >= 0 else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value >= 1 and value == value // 1 else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise CatalogueError(f"{path}: not valid JSON ({error})") from error


def _some(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
