"""Prices of candidates that the catalogue has none for: from the price map in the installed LiteLLM package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import pandas as pd

from serving.bundle.catalogue import Candidate
from training.dataset.tries import costed
from training.prices.catalogue import CatalogueError
from training.prices.price_map import PRICES, Facts, PriceList, litellm_prices


def with_found_prices(
    frame: pd.DataFrame, catalogue: Mapping[str, Candidate]
) -> tuple[dict[str, Candidate], tuple[str, ...]]:
    """The catalogue with a price for each candidate of an outcome table that lacks one and has rows without a cost.

    By its exact name, else by what follows its provider; a candidate that the map does not know stays without. Also a sentence
    for each price that was found. Without the package nothing is.
    """
    return with_listed_prices(frame.loc[~costed(frame), "candidate"].unique().tolist(), catalogue)


def with_listed_prices(
    names: Iterable[str], catalogue: Mapping[str, Candidate]
) -> tuple[dict[str, Candidate], tuple[str, ...]]:
    """The catalogue with a price for each of the named candidates that lacks one, as `with_found_prices`."""
    wanted = sorted(str(name) for name in names if str(name) not in catalogue or not catalogue[str(name)].priced)
    known = dict(catalogue)
    if not wanted:
        return known, ()
    try:
        prices = litellm_prices()
    except CatalogueError:
        return known, ()
    notes = []
    for name in wanted:
        entry = known.get(name, Candidate(name=name))
        facts = _facts(prices, entry)
        if facts is None:
            continue
        known[name] = entry.model_copy(update={field: facts.fields[field] for field in PRICES if field in facts.fields})
        notes.append(
            f"{name}: priced by {facts.source}: {known[name].input_usd_per_mtok:g} USD per million tokens in, "
            f"{known[name].output_usd_per_mtok:g} out"
        )
    return known, tuple(notes)


def price_lines(names: Iterable[str]) -> str:
    """What to put into candidates.toml for candidates that no price is known of, with PRICE where it belongs; "" for none."""
    tables = [
        f"[[candidate]]\nname = {json.dumps(name, ensure_ascii=False)}\n"
        "input_usd_per_mtok = PRICE\noutput_usd_per_mtok = PRICE"
        for name in names
    ]
    if not tables:
        return ""
    return (
        "Into candidates.toml, with USD per million tokens for PRICE, 0 for what is free; a candidate that has a table there "
        "gets the two lines in it:\n" + "\n".join(tables)
    )


def _facts(prices: PriceList, entry: Candidate) -> Facts | None:
    """What the map says of a candidate that it has both prices of."""
    for names in ((entry.name, *entry.aliases), (entry.name.rpartition("/")[2],)):
        facts = prices.find(names, entry.provider)
        if isinstance(facts, Facts) and all(field in facts.fields for field in PRICES[:2]):
            return facts
    return None
