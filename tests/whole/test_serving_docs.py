"""docs/serving.md says what the code does: its tables are complete, and its rule file is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from serving.api.bodies.feedback import FeedbackBody
from serving.api.bodies.openrouter import AutoRouter, Provider
from serving.api.bodies.route import RouteBody
from serving.api.documents import HeldBackResponse, RouteResponse
from serving.decide.decision import Reason
from serving.decide.eligibility import Rule
from serving.decide.endpoints import VARIANTS
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.rulebook import AlsoRules, Budget, Key, Rules, load_rules
from tests import fake_bundle

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = re.split(r"\n#+ ", TEXT.split(f"# {heading}\n", 1)[1])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_setting_is_in_the_table() -> None:
    expected = [
        [
            f"`ROUTER_{name.upper()}`",
            "none" if field.default is None else f"`{field.default}`",
            str(field.description).replace("|", "\\|"),
        ]
        for name, field in Settings.model_fields.items()
    ]
    assert rows("Settings") == expected


def test_every_rule_and_every_reason_is_explained() -> None:
    assert [row[0] for row in rows("Rules")] == [f"`{rule}`" for rule in Rule]
    assert [row[0] for row in rows("Reasons")] == [f"`{reason}`" for reason in Reason]
    assert all(len(row[1]) > 10 for row in rows("Rules") + rows("Reasons"))


def test_every_field_of_openrouter_that_is_read_is_explained() -> None:
    privacy = ["provider.data_collection", "provider.zdr"]
    read = ["models", *privacy, *(f"provider.{name}" for name in Provider.model_fields)]
    read += [f"plugins[].{name}" for name in AutoRouter.model_fields if name not in ("id", "enabled")]
    assert sorted(row[0] for row in rows("OpenRouter's fields")) == sorted(f"`{name}`" for name in read)
    names = TEXT.split("# OpenRouter's fields\n")[1]
    assert all(f"`:{variant}`" in names for variant in VARIANTS)


def test_what_a_decision_that_is_held_back_says_is_what_it_says() -> None:
    [example] = [json.loads(one) for one in blocks("json") if "held_back" in one]
    assert example.keys() <= RouteResponse.model_fields.keys()
    assert example["held_back"].keys() == HeldBackResponse.model_fields.keys()
    assert example["reason"] == Reason.HELD_BACK


def test_the_rule_file_is_one_and_shows_every_field(tmp_path: Path) -> None:
    [example] = blocks("toml")
    path = tmp_path / "policies.toml"
    path.write_text(example)
    book = load_rules(path)
    assert book.default.budget.pacing
    assert (book.also.share, book.also.daily_usd) == (0.02, 5.0)
    assert (book.keys["support-bot"].rate, book.keys["operator"].admin) == ("100/second", True)
    for field in {*Rules.model_fields, *Key.model_fields, *Budget.model_fields, *AlsoRules.model_fields}:
        assert re.search(rf"\b{field}\b", example), field


def test_the_bodies_are_ones() -> None:
    route, feedback, shown = (json.loads(body) for body in re.findall(r"-d '(\{.*?\})'", TEXT))
    assert RouteBody.model_validate_json(json.dumps(shown)).prompt == "Summarise this ticket."
    assert RouteBody.model_validate_json(json.dumps(route)).quality_target == 0.95
    assert FeedbackBody.model_validate_json(json.dumps(feedback)).feedback().quality == 0.9


@pytest.fixture
def service(tmp_path: Path) -> Service:
    service = Service(Settings(bundle=str(fake_bundle.build(tmp_path)), store=None))
    service.close()
    return service


def test_every_metric_is_in_the_table(service: Service) -> None:
    served = {
        family.name + ("_total" if family.type == "counter" else "") for family in service.metrics.registry.collect()
    }
    assert {row[0].strip("`") for row in rows("Metrics")} == served
