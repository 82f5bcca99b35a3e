"""Prices that the catalogue lacks: found in LiteLLM's map by name, said, and a cost of 0 that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.bundle.catalogue import Candidate
from tests.conftest import router_train_here
from training.dataset.matrix import build_matrix
from training.dataset.tries import costed
from training.logs.validate import validate
from training.prices.catalogue import load_catalogue
from training.prices.costs import CostError, fill_costs
from training.prices.found import price_lines, with_found_prices

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
    assert [note.split(": priced by LiteLLM price map ")[0] for note in notes] == sorted(known)
    assert notes[0].endswith(": 0.15 USD per million tokens in, 0.6 out")
    matrix, _ = fill_costs(build_matrix(frame[:1]), known, 100.0)
    assert matrix.cost_usd[0, 0] == pytest.approx((1000 * 0.15 + 500 * 0.6) / 1e6)


def test_what_a_run_would_end_for_is_the_next_step_and_the_catalogue_has_the_same_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"{n},what is {n}?,{name},{n % 2},10,20" for n in range(40) for name in ("gpt-4o-mini", 'our "big" one')]
    quoted = [row.replace('our "big" one', '"our ""big"" one"') for row in rows]
    head = "request_id,prompt,candidate,quality,input_tokens,output_tokens"
    log.write_text("\n".join([head, *quoted]), encoding="utf-8")
    looked = router_train_here("inspect", "--data", log, folder=tmp_path)
    assert looked.returncode == 0, looked.stderr
    lines = price_lines(['our "big" one'])
    assert looked.stdout.endswith(f"What now: give a price first, or `run` ends in an error. {lines}\n")
    assert lines in router_train_here("catalogue", "--data", log, folder=tmp_path).stdout
    written = tmp_path / "candidates.toml"
    written.write_text(lines[lines.index("[[candidate]]") :].replace("PRICE", "1.5"), encoding="utf-8")
    assert load_catalogue(written)['our "big" one'].priced
    assert price_lines([]) == ""


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
