"""Names that mean the same LLM: what the catalogue says is applied and counted, what it does not say is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.catalogue import Candidate
from tests.examples import examples
from training.dataset.matrix import build_matrix
from training.logs.aliases import Alike, alike, resolve
from training.logs.outcomes import AliasUse, Outcomes
from training.logs.validate import validate
from training.prices.catalogue import CatalogueError, load_catalogue

CATALOGUE = {
    "gpt-4o": Candidate(name="gpt-4o", aliases=("azure/gpt-4o", "prod-chat")),
    "other": Candidate(name="other"),
}


def logged(*candidates: str) -> Outcomes:
    rows = [{"request_id": str(n), "prompt": f"p{n}", "candidate": name} for n, name in enumerate(candidates)]
    return validate(pd.DataFrame(rows), source="test", format="test")


def test_rows_are_renamed_and_counted() -> None:
    table = logged("gpt-4o", "azure/gpt-4o", "prod-chat", "azure/gpt-4o", "other", "unheard-of")
    resolved = resolve(table, CATALOGUE)
    assert resolved.frame["candidate"].tolist() == ["gpt-4o"] * 4 + ["other", "unheard-of"]
    assert resolved.aliases == (AliasUse("azure/gpt-4o", "gpt-4o", 2), AliasUse("prod-chat", "gpt-4o", 1))
    assert resolved.frame.dtypes.equals(table.frame.dtypes)
    assert (resolved.rows_read, resolved.origin is table.origin) == (6, True)


def test_what_was_drawn_under_two_names_has_no_propensity_any_more() -> None:
    table = logged("gpt-4o", "prod-chat", "other", "prod-chat")
    drawn = replace(table, frame=table.frame.assign(propensity=[0.5, 0.5, 0.5, 1.0]))
    resolved = resolve(drawn, CATALOGUE)
    assert resolved.frame["propensity"].isna().tolist() == [True, True, False, True]
    assert resolved.aliases == (AliasUse("prod-chat", "gpt-4o", 2, without_propensity=3),)


def test_what_was_drawn_under_one_name_keeps_its_propensity() -> None:
    table = logged("prod-chat", "prod-chat", "gpt-4o")
    drawn = replace(table, frame=table.frame.assign(propensity=[0.5, 0.4, 1.0]))
    assert resolve(drawn, CATALOGUE).frame["propensity"].tolist() == [0.5, 0.4, 1.0]


def test_without_an_alias_in_the_log_nothing_changes() -> None:
    table = logged("gpt-4o", "other")
    assert resolve(table, CATALOGUE) is table
    assert resolve(table, {}) is table


def test_one_request_s_outcomes_under_two_names_are_two_tries() -> None:
    rows = [
        {"request_id": "1", "prompt": "p", "candidate": "gpt-4o", "quality": 1.0},
        {"request_id": "1", "prompt": "p", "candidate": "azure/gpt-4o", "quality": 0.0},
    ]
    resolved = resolve(validate(pd.DataFrame(rows), source="test", format="test"), CATALOGUE)
    assert build_matrix(resolved.frame).quality.tolist() == [[0.0]]  # the last answer


@examples(20)
@given(names=st.lists(st.sampled_from(["gpt-4o", "azure/gpt-4o", "prod-chat", "other", "x"]), min_size=1))
def test_every_renamed_row_is_in_the_count(names: list[str]) -> None:
    table = logged(*names)
    resolved = resolve(table, CATALOGUE)
    assert len(resolved.frame) == len(names)
    assert sum(use.rows for use in resolved.aliases) == sum(name in ("azure/gpt-4o", "prod-chat") for name in names)
    assert resolve(resolved, CATALOGUE).frame.equals(resolved.frame)


@pytest.mark.parametrize(
    ("tables", "alias", "owner"),
    [
        ('name = "a"\naliases = ["x"]\n[[candidate]]\nname = "b"\naliases = ["y", "x"]', "x", "a"),
        ('name = "a"\n[[candidate]]\nname = "b"\naliases = ["a"]', "a", "a"),
        ('name = "a"\naliases = ["b"]\n[[candidate]]\nname = "b"', "b", "b"),
    ],
)
def test_a_name_that_means_two_candidates_is_refused(tmp_path: Path, tables: str, alias: str, owner: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[[candidate]]\n{tables}", encoding="utf-8")
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    assert f"got {alias!r}, which already stands for {owner!r}" in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_empty_alias_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[[candidate]]\nname = "a"\naliases = [""]', encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"aliases\.0"):
        load_catalogue(path)


@pytest.mark.parametrize(
    ("seen", "catalogue", "expected"),
    [
        (["gpt-4o", "openai/gpt-4o"], [], [Alike("gpt-4o", ("openai/gpt-4o",))]),
        (["azure/gpt-4o"], ["gpt-4o"], [Alike("gpt-4o", ("azure/gpt-4o",))]),
        (["gpt-4o", "gpt-4o-2024-08-06"], [], [Alike("gpt-4o", ("gpt-4o-2024-08-06",))]),
        (
            ["claude-sonnet-4-5", "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4.5"],
            ["claude-sonnet-4-5"],
            [
                Alike(
                    "claude-sonnet-4-5",
                    ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4.5"),
                )
            ],
        ),
        (["vertex_ai/claude-opus-4@20250514", "claude-opus-4"], ["claude-opus-4"], [
            Alike("claude-opus-4", ("vertex_ai/claude-opus-4@20250514",))
        ]),
        # Two dates are two LLMs, and which of them the undated name is, the provider says.
        (["gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-2024-08-06"], [], []),
        (
            ["gpt-4o-2024-05-13", "azure/gpt-4o-2024-05-13", "gpt-4o-2024-08-06"],
            ["gpt-4o-2024-05-13"],
            [Alike("gpt-4o-2024-05-13", ("azure/gpt-4o-2024-05-13",))],
        ),
        (["gpt-4o", "gpt-4o-mini", "deepseek-v3", "deepseek-r1"], [], []),
        (["a", "x/a"], ["a", "x/a"], []),  # a person told them apart
        (["a"], ["x/b"], []),
    ],
)  # fmt: skip
def test_names_that_look_alike(seen: list[str], catalogue: list[str], expected: list[Alike]) -> None:
    rows = {name: len(seen) - place for place, name in enumerate(seen)}
    assert alike(rows, catalogue) == expected
