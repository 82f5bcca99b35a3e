"""Models and providers as OpenRouter's fields name them: who may answer by these, and who of them is tried first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.bundle.catalogue import Candidate
from serving.decide.globs import matches

# What OpenRouter lets stand behind a model's name: which of its endpoints, and how they are sorted.
VARIANTS = ("free", "nitro", "floor", "online", "exacto", "extended", "thinking", "beta")
_GLOB = frozenset("*?[")


class Group(NamedTuple):
    """Names of which a candidate has to have one, and the field that they came in."""

    field: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Who may answer. `models` and `only` hold groups, of models' names and of providers; `ignore` holds providers.

    A candidate's input and output price, in USD per million tokens, have to be known to be no higher than the two limits.
    """

    models: tuple[Group, ...] = ()
    only: tuple[Group, ...] = ()
    ignore: tuple[str, ...] = ()
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None

    def too_dear(self, candidate: Candidate) -> bool:
        """Whether a price is higher than its limit, or not known."""
        pairs = (
            (candidate.input_usd_per_mtok, self.input_usd_per_mtok),
            (candidate.output_usd_per_mtok, self.output_usd_per_mtok),
        )
        return any(most is not None and (price is None or price > most) for price, most in pairs)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Who of those who may answer is tried first; nobody is excluded by it.

    `models` is the order of the fallbacks, `providers` the order of those who have the same LLM, and of fallbacks otherwise
    equal. Who is expected to take longer than `latency_ms`, or at the 95th percentile than `latency_p95_ms`, comes last.
    Without `fallbacks` the answer names none.
    """

    models: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    fallbacks: bool = True

    @property
    def hurries(self) -> bool:
        return self.latency_ms is not None or self.latency_p95_ms is not None

    def on_time(self, latency_ms: float, latency_p95_ms: float) -> bool:
        """Whether a candidate is expected to be quick enough; one of which that is not known (NaN) is not."""
        return (self.latency_ms is None or latency_ms <= self.latency_ms) and (
            self.latency_p95_ms is None or latency_p95_ms <= self.latency_p95_ms
        )


class Directory:
    """Which of a bundle's candidates a name stands for; candidates are columns. Names are read whatever their case.

    A model's name is a candidate's own or an alias, with or without a provider in front and a variant behind: what it is
    word for word counts first. With a `*`, `?` or `[` in it, it is a glob over the same.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._spelt: list[set[str]] = []
        self._providers: list[tuple[str, ...]] = []
        self._named: dict[str, set[int]] = {}
        self._bases: dict[str, set[int]] = {}
        self._llm = [_base(candidate.name.lower()) for candidate in candidates]
        for column, candidate in enumerate(candidates):
            names = {name.lower() for name in (candidate.name, *candidate.aliases)}
            provider = _slug(candidate.provider or "")
            bare = {name for name in names if "/" not in name}
            names |= {f"{provider}/{name}" for name in bare if provider}
            self._spelt.append(names)
            self._providers.append((provider, _slug(candidate.name.rpartition("/")[0])))
            for name in names:
                self._named.setdefault(name, set()).add(column)
                self._bases.setdefault(_base(name), set()).add(column)

    def named(self, name: str) -> Collection[int]:
        """The candidates that a model's name stands for."""
        spelt = name.lower()
        if not _GLOB.isdisjoint(spelt):
            return {column for column, names in enumerate(self._spelt) if any(matches(one, spelt) for one in names)}
        plain = _without_variant(spelt)
        for whole in dict.fromkeys((spelt, plain)):
            for tail in _tails(whole):
                if tail in self._named:
                    return self._named[tail]
        return self._bases.get(plain, ())

    def of_provider(self, slug: str) -> Collection[int]:
        """The candidates that are known to be a provider's: by the catalogue, or by what stands before their names."""
        wanted = _slug(slug)
        inside = f"{wanted}/"
        return {
            column
            for column, known in enumerate(self._providers)
            if any(one == wanted or one.startswith(inside) for one in known)
        }

    def any_named(self, names: Iterable[str]) -> set[int]:
        return {column for name in names for column in self.named(name)}

    def of_any_provider(self, slugs: Iterable[str]) -> set[int]:
        return {column for slug in slugs for column in self.of_provider(slug)}

    def earliest(self, order: Sequence[int], providers: Sequence[str]) -> int:
        """Of those in the order who are the same LLM as its first, the one whose provider is named earliest."""
        places = self._places(providers)
        same = [column for column in order if self._llm[column] == self._llm[order[0]]]
        return min(same, key=lambda column: places.get(column, len(providers)))

    def arranged(self, order: Sequence[int], preferences: Preferences, late: Collection[int]) -> list[int]:
        """The chosen one and then the fallbacks: on time first, then as models and then as providers are named."""
        if not preferences.fallbacks:
            return list(order[:1])
        models, providers = preferences.models, self._places(preferences.providers)
        places: dict[int, int] = {}
        for place, name in enumerate(models):
            for column in self.named(name):
                places.setdefault(column, place)
        last = len(models), len(preferences.providers)
        return [
            order[0],
            *sorted(
                order[1:],
                key=lambda one: (one in late, places.get(one, last[0]), providers.get(one, last[1])),
            ),
        ]

    def _places(self, providers: Sequence[str]) -> dict[int, int]:
        places: dict[int, int] = {}
        for place, slug in enumerate(providers):
            for column in self.of_provider(slug):
                places.setdefault(column, place)
        return places

    def admitted(self, endpoints: Endpoints) -> tuple[set[int], set[int]]:
        """Who is of every group, and of those who are ignored."""
        allowed = set(range(len(self._spelt)))
        for group in endpoints.models:
            allowed &= self.any_named(group.names)
        for group in endpoints.only:
            allowed &= self.of_any_provider(group.names)
        return allowed, self.of_any_provider(endpoints.ignore)

    def unmet(self, endpoints: Endpoints) -> str:
        """Why these fields by themselves leave nobody, by their names; "" where they leave somebody."""
        for groups, found, what in (
            (endpoints.models, self.any_named, "is a candidate's name or alias"),
            (endpoints.only, self.of_any_provider, "is a provider that a candidate is known to be from"),
        ):
            for field, names in groups:
                if not found(names):
                    many = f"none of the {len(names)} that arrived" if len(names) > 1 else "the one that arrived"
                    verb = what if len(names) > 1 else what.replace("is ", "is not ", 1)
                    return f"{field}: {many} {verb}; GET /v1/candidates lists both"
        allowed, ignored = self.admitted(endpoints)
        fields = " and ".join(dict.fromkeys(group.field for group in (*endpoints.models, *endpoints.only)))
        if not allowed:
            return f"{fields} have no candidate in common; leave one of them out, or name another"
        if allowed <= ignored:
            asked = f"of those that {fields} leaves" if fields else "of them"
            return f"provider.ignore leaves none {asked}; take one out of it"
        return ""


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _slug(name: str) -> str:
    """A provider as OpenRouter spells it: "Google AI Studio" is google-ai-studio."""
    return name.strip("/ ").lower().replace(" ", "-").replace("_", "-")


def _without_variant(name: str) -> str:
    while True:
        plain, colon, variant = name.rpartition(":")
        if not colon or variant not in VARIANTS:
            return name
        name = plain


def _tails(name: str) -> list[str]:
    """The name, and what is left of it without the first part, and without the first two."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
