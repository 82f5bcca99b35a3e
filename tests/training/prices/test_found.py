"""Prices that the catalogue lacks: found in LiteLLM's map by name, said, and a cost of 0 that is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.bundle.catalogue import Candidate
from training.dataset.matrix import build_matrix
from training.dataset.tries import costed
from training.logs.validate import validate
from training.prices.costs import CostError, fill_costs
from training.prices.found import with_found_prices

FREE = Candidate(name="own", input_usd_per_mtok=0, output_usd_per_mtok=0)


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    filled = [{"request_id": f"r{n}", "prompt": f"p{n}", "quality": 1, **row} for n, row in enumerate(rows)]
    return validate(pd.DataFrame(filled), source="test", format="test").frame


def test_a_candidate_without_cost_and_catalogue_entry_is_priced_from_the_map() -> None:
    frame = table(
        {"candidate": "gpt-4o-mini", "input_tokens": 1000, "output_tokens": 500},
        {"candidate": "my-gateway/gpt-4o", "input_tokens": 1000, "output_tokens": 500},
        {"candidate": "nobody's", "input_tokens": 1000, "output_tokens": 500},
        {"candidate": "costed", "cost_usd": 0.5},
    )
    known, notes = with_found_prices(frame, {})
    assert set(known) == {"gpt-4o-mini", "my-gateway/gpt-4o"}
    assert known["gpt-4o-mini"].input_usd_per_mtok == pytest.approx(0.15)
    assert known["gpt-4o-mini"].output_usd_per_mtok == pytest.approx(0.6)
    assert known["my-gateway/gpt-4o"].priced
    assert [note.split(" has no price")[0] for note in notes] == sorted(known)
    assert "LiteLLM price map" in notes[0]
    matrix, _ = fill_costs(build_matrix(frame[:1]), known, 100.0)
    assert matrix.cost_usd[0, 0] == pytest.approx((1000 * 0.15 + 500 * 0.6) / 1e6)


def test_prices_of_the_catalogue_stay_and_costs_need_none() -> None:
    own = Candidate(name="gpt-4o-mini", input_usd_per_mtok=7, output_usd_per_mtok=9)
    frame = table({"candidate": "gpt-4o-mini", "input_tokens": 1}, {"candidate": "gpt-4o", "cost_usd": 0.5})
    assert with_found_prices(frame, {"gpt-4o-mini": own}) == ({"gpt-4o-mini": own}, ())


def test_a_cost_of_0_beside_tokens_is_not_known_unless_the_candidate_is_free() -> None:
    frame = table(
        {"candidate": "priced", "cost_usd": 0, "input_tokens": 1_000_000, "output_tokens": 0},
        {"candidate": "own", "cost_usd": 0, "input_tokens": 1_000_000, "output_tokens": 5},
        {"candidate": "tokenless", "cost_usd": 0},
        {"candidate": "priced", "cost_usd": 0, "input_tokens": 5, "status": "error"},
    )
    assert costed(frame).tolist() == [False, False, True, True]
    priced = Candidate(name="priced", input_usd_per_mtok=2, output_usd_per_mtok=2)
    matrix, notes = fill_costs(build_matrix(frame), {"priced": priced, "own": FREE}, 100.0)
    assert matrix.candidates == ("own", "priced", "tokenless")
    assert np.nansum(matrix.cost_usd, axis=1).tolist() == [2.0, 0.0, 0.0, 0.0]
    assert (notes.logged, notes.priced) == (3, 1)
    with pytest.raises(CostError, match=r"no cost is known for own: .* 0 in spite of tokens"):
        fill_costs(build_matrix(frame), {"priced": priced}, 100.0)
