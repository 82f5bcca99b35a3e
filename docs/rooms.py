"""Draws the rooms, from the imports as they are, into docs/architecture.md: `python -m docs.rooms`.

An arrow says that a room imports from another. One that follows from two others is left out, or nothing could be seen: who
imports the room below also imports, or may import, what stands below that.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
_MARKED = re.compile(r"(<!-- rooms -->\n).*?(<!-- end of rooms -->)", flags=re.DOTALL)
PACKAGES = ("benchmarks", "training", "serving")


def room_of(module: str) -> str:
    """The room that a module stands in: `training.logs.cells` is in `training.logs`, and benchmarks are one room."""
    package, *below = module.split(".")
    return package if package == "benchmarks" or not below else f"{package}.{below[0]}"


def imports() -> networkx.DiGraph:
    """Every room, with an edge to each room that it imports from."""
    modules = grimp.build_graph(*PACKAGES, cache_dir=None)
    rooms = networkx.DiGraph()
    for module in modules.modules - set(PACKAGES[1:]):
        rooms.add_node(room_of(module))
        for imported in modules.find_modules_directly_imported_by(module) - set(PACKAGES[1:]):
            if room_of(imported) != room_of(module):
                rooms.add_edge(room_of(module), room_of(imported))
    return rooms


def floors(package: str) -> list[str]:
    """The package's rooms from the top floor down, as pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(one["layers"] for one in contracts if one.get("containers") == [package])
    return [f"{package}.{room.strip()}" for layer in layers for room in layer.split("|")]


def drawn() -> str:
    """The picture as a Mermaid flowchart."""
    rooms = imports()
    lines = ["```mermaid", "flowchart TD", "    benchmarks[benchmarks]"]
    for package in PACKAGES[1:]:
        named = [room for room in floors(package) if room in rooms]
        boxes = [f"        {room.replace('.', '_')}[{room.partition('.')[2]}]" for room in named]
        lines += [f"    subgraph {package}", *boxes, "    end"]
    arrows = sorted(networkx.transitive_reduction(rooms).edges)
    lines += [f"    {above.replace('.', '_')} --> {below.replace('.', '_')}" for above, below in arrows]
    return "\n".join([*lines, "```", ""])


def written(document: str) -> str:
    """The document with the picture as it is today."""
    return _MARKED.sub(lambda marks: marks[1] + drawn() + marks[2], document)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
