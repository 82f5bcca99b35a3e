"""What every logged attempt cost: as logged, else its tokens times the catalogue's price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.request import RouteRequest
from training.dataset.matrix import OutcomeMatrix
from training.dataset.tries import zero_with_tokens
from training.errors import TrainingError
from training.prices.tokens import input_tokens as tokens_of


class CostError(TrainingError):
    """A candidate whose cost can be neither read nor computed."""


@dataclass(frozen=True)
class CostNotes:
    """How many costs were logged or priced, and how many token counts that took were counted or estimated, over attempts."""

    logged: int
    priced: int
    counted_input_tokens: int
    estimated_input_tokens: int
    estimated_output_tokens: int


@dataclass(frozen=True)
class Lengths:
    """Input tokens by the texts of n requests, where costs take them and no log has them: `tokens` (n, m), NaN where not
    wanted, and whether they were `counted` (n, m) rather than estimated."""

    tokens: Floats
    counted: Bools

    def take(self, rows: Bools) -> Lengths:
        """Of the given requests, a mask (n,)."""
        return Lengths(self.tokens[rows], self.counted[rows])


def fill_costs(
    matrix: OutcomeMatrix,
    catalogue: Mapping[str, Candidate],
    assumed_output_tokens: float,
    known: Lengths | None = None,
) -> tuple[OutcomeMatrix, CostNotes]:
    """The same outcomes with every attempt's cost known: tokens times catalogue price where none was logged.

    An answer with tokens and a cost of 0 has none logged, unless the catalogue says that the candidate is free: gateways
    write 0 where they know no price.

    Missing input tokens are counted where the candidate's encoding is at hand, else estimated from the text's length
    (`tokens.input_tokens`); missing output tokens are the candidate's mean, or `assumed_output_tokens` where it has none.
    Both price attempts; they are not written into the token columns. Of requests whose text is not at hand, the length may be
    `known`.
    Raises CostError for a candidate with neither costs nor a price.
    """
    filled, notes, _ = fill_costs_by_length(matrix, catalogue, assumed_output_tokens, known)
    return filled, notes


def fill_costs_by_length(
    matrix: OutcomeMatrix,
    catalogue: Mapping[str, Candidate],
    assumed_output_tokens: float,
    known: Lengths | None = None,
) -> tuple[OutcomeMatrix, CostNotes, Lengths]:
    """As `fill_costs`, and the lengths that it took."""
    prices = [catalogue.get(name) for name in matrix.candidates]
    free = np.array([entry is not None and entry.priced and _price(entry) == (0.0, 0.0) for entry in prices])
    unpriced = ~matrix.error & ~free & zero_with_tokens(matrix.cost_usd, matrix.input_tokens, matrix.output_tokens)
    matrix = replace(matrix, cost_usd=np.where(unpriced, np.nan, matrix.cost_usd))
    missing = matrix.attempted & np.isnan(matrix.cost_usd)
    hopeless = [
        name
        for column, (name, entry) in enumerate(zip(matrix.candidates, prices, strict=True))
        if missing[:, column].any() and (entry is None or not entry.priced)
    ]
    if hopeless:
        raise CostError(
            f"no cost is known for {', '.join(hopeless)}: their rows have no cost_usd (or 0 in spite of tokens), and neither "
            "the catalogue nor LiteLLM's price map has a price. Add input_usd_per_mtok and output_usd_per_mtok to "
            "candidates.toml, both 0 for what is free, or log cost_usd. A name that a gateway gives a "
            "candidate, as a model group's, belongs into that candidate's aliases there."
        )
    unknown = missing & np.isnan(matrix.input_tokens)
    entries = [catalogue.get(name, Candidate(name=name)) for name in matrix.candidates]
    # Of a request that is not at hand nobody knows how long it is: its cost stays unknown.
    readable = np.array([isinstance(request, RouteRequest) for request in matrix.requests], dtype=np.bool_)
    found, counted = tokens_of(list(matrix.requests), entries, unknown & readable[:, None])
    if known is not None:
        before = unknown & ~readable[:, None]
        found, counted = np.where(before, known.tokens, found), np.where(before, known.counted, counted)
    input_tokens = np.where(unknown, found, matrix.input_tokens)
    seen = np.isfinite(matrix.output_tokens)
    mean_output = np.where(
        seen.any(axis=0),
        np.nansum(matrix.output_tokens, axis=0) / np.maximum(seen.sum(axis=0), 1),
        assumed_output_tokens,
    )
    output_tokens = np.where(seen, matrix.output_tokens, mean_output)
    cost = matrix.cost_usd.copy()
    for column, entry in enumerate(prices):
        rows = missing[:, column]
        if entry is not None and rows.any():
            price_in, price_out = _price(entry)
            cost[rows, column] = (input_tokens[rows, column] * price_in + output_tokens[rows, column] * price_out) / 1e6
    notes = CostNotes(
        logged=int(np.isfinite(matrix.cost_usd).sum()),
        priced=int(missing.sum()),
        counted_input_tokens=int(counted.sum()),
        estimated_input_tokens=int((unknown & ~counted).sum()),
        estimated_output_tokens=int((missing & ~seen).sum()),
    )
    return replace(matrix, cost_usd=cost), notes, Lengths(found, counted)


def _price(entry: Candidate) -> tuple[float, float]:
    return entry.input_usd_per_mtok or 0.0, entry.output_usd_per_mtok or 0.0
