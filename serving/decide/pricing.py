"""What a request is expected to cost at each candidate, and what it costs there at least, by its counted tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serving.bundle.arrays import AnyFloats, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Usual


class Pricing:
    """Prices requests for m candidates. Training's cost model is built on it too, so that both expect the same.

    A prompt is measured in counted tokens (`serving.bundle.request`); the candidate's own are that times its `input_ratio`.
    Whatever else is equal, a longer prompt is never expected to cost less.
    """

    def __init__(
        self, candidates: Sequence[Candidate], cost_from: Mapping[str, str], usual: Mapping[str, Usual]
    ) -> None:
        known = [usual[candidate.name] for candidate in candidates]
        self._candidates = tuple(candidates)
        self._by_tokens = np.array([cost_from[c.name] == "tokens" for c in candidates])
        self._all_by_tokens = bool(self._by_tokens.all())
        self._priced = np.array([c.priced for c in candidates])
        self._ratio = np.array([one.input_ratio for one in known])
        self._input_usd = np.array([c.input_usd_per_mtok or 0.0 for c in candidates]) / 1e6
        self._output_usd = np.array([c.output_usd_per_mtok or 0.0 for c in candidates]) / 1e6
        self._read_usd = self._ratio * self._input_usd
        self._least_usd: list[float] = self._input_usd.tolist()
        self._usual_cost = np.array([one.cost_usd for one in known])
        self._usual_length = np.maximum([one.counted_tokens for one in known], 1.0)
        self._longest = np.maximum([one.longest for one in known], 1.0)

    def expected(self, counted: AnyFloats, output_tokens: AnyFloats, logged: AnyFloats) -> Floats:
        """(n, m) USD, from counted tokens (n,), expected answers' tokens (n, m) and costs predicted from logged ones (n, m).

        Tokens times price; for a candidate without, the cost predicted from logged ones, which is taken to grow with the
        prompt beyond the longest that was seen.
        """
        length = counted[:, None]
        by_tokens = length * self._read_usd + output_tokens * self._output_usd
        if self._all_by_tokens:
            return by_tokens
        return np.where(self._by_tokens, by_tokens, logged * np.maximum(length / self._longest, 1.0))

    def usual(self, counted: float, output_tokens: Sequence[float]) -> Floats:
        """(m,) USD of a request of which nothing is known but its length, and how long answers may be, (m,)."""
        by_tokens = counted * self._ratio * self._input_usd + np.asarray(output_tokens) * self._output_usd
        by_length = self._usual_cost * np.maximum(counted / self._usual_length, 1.0)
        return np.where(self._priced, by_tokens, by_length)

    def at_least(self, counted: float, cost_usd: Sequence[float]) -> list[float]:
        """(m,) what the limits hold against each candidate: the expected cost, and no less than the counted prompt alone.

        The expected cost rests on what was learnt, the count errs upwards: a prompt that by itself exceeds a limit is over it
        whatever is expected. A cost that is not known stays NaN.
        """
        return [max(cost, counted * usd) for cost, usd in zip(cost_usd, self._least_usd, strict=True)]

    def with_cache(self, cost_usd: Sequence[float], counted: float, cached: Mapping[str, float]) -> list[float]:
        """(m,) the costs within a conversation, where `cached` counted tokens of the prompt are in a candidate's cache.

        What is cached is read at the price for that, if it is as long as the provider asks for; the rest of a prompt of that
        length is written to the cache, at the price for that where it is known.
        """
        costs = list(cost_usd)
        for column, candidate in enumerate(self._candidates):
            price = candidate.input_usd_per_mtok
            if price is None or not self._by_tokens[column]:
                continue
            tokens, least = counted * float(self._ratio[column]), candidate.cache_minimum_tokens or 0
            read = min(cached.get(candidate.name, 0.0), counted) * float(self._ratio[column])
            if read < least or candidate.cache_read_usd_per_mtok is None:
                read = 0.0
            saved = read * max(price - (candidate.cache_read_usd_per_mtok or 0.0), 0.0)
            write = candidate.cache_write_usd_per_mtok
            added = 0.0 if write is None or tokens < least else (tokens - read) * max(write - price, 0.0)
            costs[column] = max(costs[column] + (added - saved) / 1e6, 0.0)
        return costs
