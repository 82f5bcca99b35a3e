"""The catalogue filled from price lists: facts by hand, and what a person wrote stays, to the byte."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import router_train_here
from tests.examples import examples
from training.prices import price_map
from training.prices.catalogue import SHIPPED, CatalogueError, load_catalogue, parse_catalogue
from training.prices.fill import Proposal, propose
from training.prices.price_map import PriceList, litellm_prices, openrouter_prices

ROOT = Path(__file__).parents[3]
MODELS: list[dict[str, Any]] = [
    {
        "id": "acme/large",
        "canonical_slug": "acme/large-2026-01-01",
        "context_length": 200000,
        "architecture": {"input_modalities": ["text", "image", "file"], "output_modalities": ["text"]},
        "pricing": {
            "prompt": "0.0000025",
            "completion": "0.00001",
            "input_cache_read": "0.00000125",
            "input_cache_write": "0.000003",
            "request": "0",
        },
        "top_provider": {"context_length": 128000, "max_completion_tokens": 16384, "is_moderated": True},
        "supported_parameters": ["tools", "response_format", "structured_outputs"],
    },
    {
        "id": "acme/small:free",
        "context_length": 8192,
        "architecture": {"input_modalities": ["text"]},
        "pricing": {"prompt": "0", "completion": "0"},
        "top_provider": {"context_length": None, "max_completion_tokens": None},
        "supported_parameters": ["response_format"],
    },
    {"id": "acme/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
]
MAP: dict[str, Any] = {
    "sample_spec": {"mode": "chat", "input_cost_per_token": 0.0},
    "large": {
        "litellm_provider": "acme", "mode": "chat", "input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,
        "cache_read_input_token_cost": 3e-07, "max_input_tokens": 200000, "max_output_tokens": 64000,
        "supports_function_calling": True, "supports_vision": False, "supports_pdf_input": True,
        "cache_creation_input_token_cost": 3.75e-06, "prompt_cache_min_tokens": 1024.0,
    },
    "cloud/large": {"litellm_provider": "cloud", "mode": "chat", "input_cost_per_token": 4e-06},
    "us.maker.large-v1:0": {"litellm_provider": "bedrock_converse", "mode": "chat", "input_cost_per_token": 5e-06},
    "one/maker/medium": {"litellm_provider": "one", "mode": "chat", "input_cost_per_token": 1e-06},
    "one/tiny": {"litellm_provider": "one", "mode": "chat", "input_cost_per_token": 1e-06},
    "two/tiny": {"litellm_provider": "two", "mode": "chat", "input_cost_per_token": 2e-06},
    "local/llama": {"litellm_provider": "local", "mode": "chat", "input_cost_per_token": 0.0, "max_input_tokens": 8192},
    "embedder": {"litellm_provider": "acme", "mode": "embedding", "input_cost_per_token": 1e-07},
    "odd": {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": "cheap", "max_input_tokens": "many"},
}  # fmt: skip


@pytest.fixture
def listing(tmp_path: Path) -> PriceList:
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"data": MODELS}), encoding="utf-8")
    return openrouter_prices(path)


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PriceList:
    file = tmp_path / "model_prices_and_context_window_backup.json"
    file.write_text(json.dumps(MAP), encoding="utf-8")
    monkeypatch.setattr(price_map, "litellm_folder", lambda: tmp_path)
    monkeypatch.setattr(price_map, "version", lambda _name: "1.2.3")
    return litellm_prices()


def filled(text: str, rows: dict[str, int], *lists: PriceList) -> Proposal:
    return propose(text, Path("c.toml"), rows, lists, "2026-11")


def test_openrouter_s_text_prices_are_per_million_tokens(listing: PriceList) -> None:
    assert listing.facts["acme/large"].fields == {
        "provider": "openrouter",
        "input_usd_per_mtok": 2.5,
        "output_usd_per_mtok": 10.0,
        "cache_read_usd_per_mtok": 1.25,
        "cache_write_usd_per_mtok": 3.0,
        "context_window": 128000,
        "max_output_tokens": 16384,
        "tools": True,
        "vision": True,
        "json_schema": True,
        "audio": False,
        "pdf": True,
        "video": False,
    }
    free = listing.facts["acme/small:free"].fields
    assert (free["input_usd_per_mtok"], free["context_window"]) == (0.0, 8192)
    assert (free["tools"], free["vision"], free["json_schema"]) == (False, False, False)
    assert listing.facts["acme/auto"].fields == {"provider": "openrouter"}  # -1 is no price


def test_the_map_s_prices_are_per_million_tokens(prices: PriceList) -> None:
    assert prices.facts["large"].fields == {
        "provider": "acme",
        "input_usd_per_mtok": 3.0,
        "output_usd_per_mtok": 15.0,
        "cache_read_usd_per_mtok": 0.3,
        "cache_write_usd_per_mtok": 3.75,
        "cache_minimum_tokens": 1024,
        "context_window": 200000,
        "max_output_tokens": 64000,
        "tools": True,
        "vision": False,
        "pdf": True,
    }
    assert prices.facts["us.maker.large-v1:0"].fields["provider"] == "bedrock"
    assert prices.facts["local/llama"].fields == {"provider": "local", "context_window": 8192}  # 0 is no price here
    assert prices.facts["odd"].fields == {"provider": "acme"}
    assert not {"sample_spec", "embedder"} & prices.facts.keys()


@pytest.mark.parametrize(
    ("name", "provider", "key"),
    [
        ("large", None, "large"),
        ("acme/large", None, "large"),
        ("cloud/large", None, "cloud/large"),
        ("bedrock/us.maker.large-v1:0", None, "us.maker.large-v1:0"),
        ("medium", None, "one/maker/medium"),
        ("maker/medium", None, "one/maker/medium"),
        ("tiny", "two", "two/tiny"),
    ],
)
def test_a_name_finds_its_key(prices: PriceList, name: str, provider: str | None, key: str) -> None:
    facts = prices.find([name], provider)
    assert not isinstance(facts, str)
    assert facts.key == key


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tiny", "listed as one/tiny, two/tiny: add the right one to its aliases, or its provider"),
        ("two/medium", "not listed"),  # another provider's price is not this one's
        ("large-2026-01-01", "not listed"),  # nor is another snapshot's
        ("prod-chat", "not listed"),
    ],
)
def test_a_name_that_does_not_tell_is_not_guessed(prices: PriceList, name: str, why: str) -> None:
    assert prices.find([name], None) == why


def test_an_alias_tells_which(prices: PriceList) -> None:
    facts = prices.find(["prod-chat", "two/tiny"], None)
    assert not isinstance(facts, str)
    assert facts.fields["input_usd_per_mtok"] == 2.0


COMMENTED = """# Ours.
[[candidate]]
name = "large"  # the big one
input_usd_per_mtok = 3.0  # as agreed

# regions: see the contract

# The next one was measured in May.
[[candidate]]
name = "other"
"""


def test_new_keys_come_below_the_last_one_and_nothing_else_moves(prices: PriceList) -> None:
    proposal = filled(COMMENTED, {"large": 5, "other": 2, "maker/medium": 1}, prices)
    assert (
        proposal.after
        == """# Ours.
[[candidate]]
name = "large"  # the big one
input_usd_per_mtok = 3.0  # as agreed
provider = "acme"
output_usd_per_mtok = 15.0
cache_read_usd_per_mtok = 0.3
cache_write_usd_per_mtok = 3.75
cache_minimum_tokens = 1024
context_window = 200000
max_output_tokens = 64000
tools = true
vision = false
pdf = true
source = "LiteLLM price map 1.2.3, large, 2026-11"

# regions: see the contract

# The next one was measured in May.
[[candidate]]
name = "other"

[[candidate]]
name = "maker/medium"
provider = "one"
input_usd_per_mtok = 1.0
source = "LiteLLM price map 1.2.3, one/maker/medium, 2026-11"
"""
    )
    assert [(one.candidate, one.new) for one in proposal.filled] == [("large", False), ("maker/medium", True)]
    missing = {one.candidate: (one.fields, one.why) for one in proposal.missing}
    assert missing["large"] == (("json_schema", "audio", "video"), "not told by LiteLLM price map 1.2.3, large")
    assert missing["other"][1] == "not listed"
    diff = proposal.diff("c.toml").splitlines()
    assert not [line for line in diff if line.startswith("-") and line != "--- c.toml"]


def test_prices_are_not_mixed_with_one_s_own(prices: PriceList) -> None:
    text = '[[candidate]]\nname = "large"\ninput_usd_per_mtok = 2.0\nsource = "our contract"\n'
    proposal = filled(text, {"large": 1}, prices)
    entry = parse_catalogue(proposal.after, Path("c.toml"))["large"]
    assert (entry.input_usd_per_mtok, entry.output_usd_per_mtok, entry.cache_read_usd_per_mtok) == (2.0, None, None)
    assert entry.context_window == 200000
    assert entry.source == "our contract"
    assert "context_window = 200000 # LiteLLM price map 1.2.3, large, 2026-11\n" in proposal.after
    assert [(d.field, d.written, d.listed) for d in proposal.differs] == [("input_usd_per_mtok", 2.0, 3.0)]
    assert "output_usd_per_mtok" in proposal.missing[0].fields


def test_the_list_that_knows_the_name_itself_is_preferred(listing: PriceList, prices: PriceList) -> None:
    by_end = filled("", {"large": 1}, listing, prices).filled[0]
    assert by_end.source == "LiteLLM price map 1.2.3, large, 2026-11"
    by_name = filled("", {"openrouter/acme/large": 1}, listing, prices).filled[0]
    assert by_name.source == "OpenRouter models.json, acme/large, 2026-11"


def test_names_that_may_be_aliases_wait_for_a_person(prices: PriceList) -> None:
    proposal = filled("", {"large": 5, "cloud/large": 1}, prices)
    assert [one.candidate for one in proposal.filled] == ["large"]
    assert [tuple(one) for one in proposal.alike] == [("large", ("cloud/large",))]
    told_apart = filled(
        proposal.after + '\n[[candidate]]\nname = "cloud/large"\n', {"large": 5, "cloud/large": 1}, prices
    )
    assert [(one.candidate, one.fields["input_usd_per_mtok"]) for one in told_apart.filled] == [("cloud/large", 4.0)]
    assert told_apart.alike == ()


def test_a_second_time_adds_nothing(prices: PriceList) -> None:
    once = filled(COMMENTED, {"large": 5, "tiny": 2, "maker/medium": 1}, prices)
    again = filled(once.after, {"large": 5, "tiny": 2, "maker/medium": 1}, prices)
    assert again.after == once.after
    assert (again.filled, again.diff("c.toml")) == ((), "")


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", '[[candidate]]\nname = "x"', '[[candidate]]\r\nname = "x"\r\n']
)
def test_any_file_can_be_added_to(prices: PriceList, text: str) -> None:
    proposal = filled(text, {"large": 1, "x": 1}, prices)
    assert proposal.after.startswith(text)
    assert parse_catalogue(proposal.after, Path("c.toml"))["large"].output_usd_per_mtok == 15.0


def test_an_inline_array_is_left_alone(prices: PriceList) -> None:
    with pytest.raises(CatalogueError, match=r"c\.toml: candidate is an inline array; expected \[\[candidate\]\]"):
        filled('candidate = [{name = "x"}]', {"large": 1}, prices)


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "provider": st.just("mine"),
        "input_usd_per_mtok": st.sampled_from([3.0, 1, 0.5]),
        "output_usd_per_mtok": st.sampled_from([15.0, 2]),
        "context_window": st.sampled_from([1000, 200000]),
        "tools": st.booleans(),
        "regions": st.just(["eu", "us"]),
        "zero_retention": st.booleans(),
        "source": st.just("a contract"),
    },
)
TRIVIA = st.sampled_from(["", "\n", "# a comment\n", "\n# one [[candidate]]\n\n"])


@examples(20)
@given(tables=st.lists(st.tuples(TRIVIA, KEYS, TRIVIA), min_size=1, max_size=3), end=st.sampled_from(["", "\n"]))
def test_what_a_person_wrote_stays(tables: list[tuple[str, dict[str, Any], str]], end: str) -> None:
    names = ["gpt-4o", "claude-sonnet-4-5", "unheard-of"][: len(tables)]
    text = ""
    for name, (before, keys, after) in zip(names, tables, strict=True):
        lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": name, **keys}.items()]
        text += before + "[[candidate]]\n" + "\n".join(lines) + "\n" + after
    text = text.rstrip("\n") + end
    proposal = filled(text, dict.fromkeys([*names, "gpt-4o-mini"], 1), litellm_prices())
    kept = proposal.after.splitlines()
    place = 0
    for line in text.splitlines():  # every line is still there, in order
        place = kept.index(line, place) + 1
    was, now = tomllib.loads(text)["candidate"], tomllib.loads(proposal.after)["candidate"]
    assert [{key: table[key] for key in old} for old, table in zip(was, now, strict=False)] == was
    assert [table["name"] for table in now] == [*names, "gpt-4o-mini"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("{}", "expected what https://openrouter.ai"), ('{"data": [{}]}', "expected what")],
)
def test_a_listing_that_is_none_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CatalogueError, match=message) as caught:
        openrouter_prices(path)
    assert str(path) in str(caught.value)


def test_the_installed_map_is_read() -> None:
    facts = litellm_prices().find(["openai/gpt-4o"], None)
    assert not isinstance(facts, str)
    assert facts.fields["provider"] == "openai"
    assert float(facts.fields["output_usd_per_mtok"]) > float(facts.fields["input_usd_per_mtok"]) > 0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    names = ["gpt-4o", "gpt-4o-mini", "azure/gpt-4o", "prod-chat"]
    rows = [{"request_id": str(n), "prompt": f"p{n}", "candidate": name} for n, name in enumerate(names)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_the_command_shows_and_does_not_write(tmp_path: Path, log: Path) -> None:
    catalogue = tmp_path / "candidates.toml"
    catalogue.write_bytes(SHIPPED.read_bytes())
    finished = router_train_here("catalogue", "--data", log, "--catalogue", catalogue)
    assert finished.returncode == 0, finished.stderr
    assert catalogue.read_bytes() == SHIPPED.read_bytes()
    assert '+name = "gpt-4o-mini"' in finished.stdout
    assert 'aliases = ["azure/gpt-4o"] for gpt-4o' in finished.stdout
    assert "prod-chat" in finished.stdout
    assert "hosting, regions, zero_retention" in finished.stdout


def test_the_command_writes_whole_files_and_reads_aliases(tmp_path: Path, log: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "candidates.toml"
    real.write_text('[[candidate]]\nname = "gpt-4o"\naliases = ["azure/gpt-4o", "prod-chat"]\n', encoding="utf-8")
    real.chmod(0o640)
    link.symlink_to(real)
    finished = router_train_here("catalogue", "--data", log, "--catalogue", link, "--write")
    assert finished.returncode == 0, finished.stderr
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    written = load_catalogue(link)
    assert written["gpt-4o"].priced
    assert written["gpt-4o-mini"].priced
    assert list(written) == ["gpt-4o", "gpt-4o-mini"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidates.toml", "log.jsonl", "real.toml"]


def test_a_catalogue_can_be_started(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "new" / "candidates.toml"
    finished = router_train_here("catalogue", "--data", log, "--catalogue", path, "--write")
    assert finished.returncode == 0, finished.stderr
    assert list(load_catalogue(path)) == ["gpt-4o", "gpt-4o-mini"]


def test_without_a_list_there_is_nothing_to_look_into(tmp_path: Path, log: Path) -> None:
    finished = router_train_here("catalogue", "--data", log, "--no-litellm")
    assert finished.returncode == 2
    assert "--openrouter" in finished.stderr


def test_litellm_s_files_are_read_without_importing_it() -> None:
    code = (
        "import sys; from training.prices import price_map, tokens; price_map.litellm_prices(); "
        "assert tokens.load_encoding('o200k_base'); print('litellm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
