"""The catalogue reads, and a wrong one says where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.bundle.catalogue import Candidate
from training.prices.catalogue import SHIPPED, CatalogueError, known_candidates, load_catalogue, merged


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "candidates.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_every_field_in_file_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[candidate]]
        name = "b"
        input_usd_per_mtok = 2
        output_usd_per_mtok = 8.5
        regions = ["eu", "us"]
        hosting = "self"

        [[candidate]]
        name = "a"
        """,
    )
    catalogue = load_catalogue(path)
    assert list(catalogue) == ["b", "a"]
    assert catalogue["b"].regions == ("eu", "us")
    assert catalogue["b"].cost_usd(1000, 100) == pytest.approx((2000 + 850) / 1e6)
    assert not catalogue["a"].priced


def test_shipped_catalogue_is_priced_sourced_and_spread() -> None:
    catalogue = load_catalogue(SHIPPED)
    assert len(catalogue) >= 6
    assert len({candidate.provider for candidate in catalogue.values()}) >= 3
    for candidate in catalogue.values():
        assert candidate.priced
        assert candidate.context_window
        assert candidate.source
        assert "20" in candidate.source, "a price without its date cannot be checked"
    costs = [candidate.cost_usd(1000, 500) for candidate in catalogue.values()]
    assert max(costs) > 20 * min(costs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("candidate = 3", ["candidate: got 3", "[[candidate]]"]),
        ("candidate = [3]", ["candidate 1", "got 3", "expected a [[candidate]] table"]),
        ("[[candidate]\nname = 'a'", ["not valid TOML", "line 1"]),
        ("[[candidates]]\nname = 'a'", ["['candidates']", "[[candidate]]"]),
        ("[[candidate]]\nprovider = 'x'", ["candidate 1", "name: missing"]),
        ("[[candidate]]\nname = 'a'\n[[candidate]]\nname = 'a'", ["candidate 2 ('a')", "already"]),
        ("[[candidate]]\nname = 'a'\nprice = 1", ["candidate 1 ('a')", "price", "got 1", "input_usd_per_mtok"]),
        (
            "[[candidate]]\nname = 'ok'\n[[candidate]]\nname = 'a'\ninput_usd_per_mtok = -1",
            ["candidate 2 ('a')", "input_usd_per_mtok", "got -1", "greater than or equal to 0"],
        ),
        ("[[candidate]]\nname = 'a'\nhosting = 'cloud'", ["hosting", "got 'cloud'", "'self' or 'external'"]),
    ],
)
def test_an_error_names_the_file_the_table_and_the_field(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    message = str(caught.value)
    assert str(path) in message
    for part in expected:
        assert part in message


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere\.toml: cannot be read"):
        load_catalogue(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogueError, match="not UTF-8"):
        load_catalogue(binary)


def test_an_own_catalogue_adds_to_the_shipped_one_and_replaces_what_it_names(tmp_path: Path) -> None:
    shipped = load_catalogue(SHIPPED)
    first, second, *others = shipped
    own = written(
        tmp_path,
        f"""
[[candidate]]
name = "{first}"
input_usd_per_mtok = 7.5

[[candidate]]
name = "ours"
aliases = ["{second}"]
""",
    )
    known = known_candidates(own)
    assert list(known) == [*others, first, "ours"]
    assert known[first].input_usd_per_mtok == 7.5
    assert known[first].output_usd_per_mtok is None, "prices of two price lists are not mixed"
    assert all(known[name] == shipped[name] for name in others)


def test_an_alias_that_an_own_candidate_has_is_no_alias_of_a_shipped_one() -> None:
    shipped = {"theirs": Candidate(name="theirs", aliases=("one", "two"))}
    known = merged(shipped, {"ours": Candidate(name="ours", aliases=("two",))})
    assert known["theirs"].aliases == ("one",)


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_own_catalogue_may_be_empty_or_absent(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert known_candidates() == load_catalogue(SHIPPED)
    written(tmp_path, text)
    assert known_candidates() == load_catalogue(SHIPPED)
    with pytest.raises(CatalogueError, match=r"other\.toml: cannot be read"):
        known_candidates(Path("other.toml"))
