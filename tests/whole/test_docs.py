"""The documents' promises: every importer has a section, and every command and option in them exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from tests.conftest import ROOT
from training.cli.main import app
from training.logs.sources.reading import IMPORTERS

COMMANDS = typer.main.get_command(app)
SECTIONS = {
    "litellm": "## LiteLLM",
    "litellm-spend": "## LiteLLM",
    "langfuse": "## Langfuse",
    "otel": "## OpenTelemetry GenAI",
    "openrouter": "## OpenRouter",
    "openai": "## OpenAI-shaped pairs",
    "decisions": "## The router's own decisions",
}


def commands(path: Path) -> list[str]:
    """Every `router-train` command in the document's code blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line[line.index("router-train") :] for line in lines if "router-train" in line]


def test_every_importer_of_an_outside_source_has_a_section() -> None:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    outside = {importer.NAME for importer in IMPORTERS} - {"canonical", "routerbench", "routellm"}
    assert outside == SECTIONS.keys()
    assert all(f"\n{heading}" in text for heading in SECTIONS.values())


@pytest.mark.parametrize("line", commands(ROOT / "docs" / "logs.md"))
def test_its_commands_have_options_that_exist(line: str) -> None:
    _, name, *rest = shlex.split(line.replace("[", "").replace("]", ""))
    command = COMMANDS.commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word for word in rest if word.startswith("--")}
    assert given <= known
