"""`make bench-scale`: measures parts of the section Scale and writes docs/scale.json and docs/benchmarks.md.

A part is a module of this room with `measure(work)`, which takes a folder for what it makes and gives what it found, and
`section(found)`, which says that in Markdown. Parts that are not measured stand as they were found last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from serving.bundle.atomic_write import written_whole

# Measured and told in this order.
PARTS: tuple[str, ...] = ("train", "since", "cluster", "look", "replicas", "year")
FOUND, PAGE = "scale.json", "benchmarks.md"
_MARKED = re.compile(r"(<!-- scale -->\n).*?(<!-- end of scale -->)", flags=re.DOTALL)


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One of: {', '.join(PARTS)}. Repeatable.")] = None,
    work: Annotated[Path, typer.Option(help="Where logs and bundles are made; what is there is used again.")] = Path(
        ".cache/scale"
    ),
    year_rows: Annotated[
        list[int] | None, typer.Option(help="How many decisions a store of the part year has. Repeatable.")
    ] = None,
    docs: Annotated[Path, typer.Option(help="The folder of scale.json and benchmarks.md.")] = Path("docs"),
) -> None:
    """Measure how things grow, one part after the other."""
    wanted = tuple(only or PARTS)
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise typer.BadParameter(f"--only {unknown[0]}: expected one of {', '.join(PARTS)}")
    work.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if name in wanted:
            sizes = [year_rows] if name == "year" and year_rows else []
            found = import_module(f"benchmarks.scale.{name}").measure(work, *sizes)
            write(docs, name, found)


def write(docs: Path, name: str, found: object) -> None:
    """Puts what one part found beside what the others had, and types the section anew."""
    kept = docs / FOUND
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    known[name] = found
    with written_whole(kept) as draft:
        draft.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = docs / PAGE
    text = page.read_text(encoding="utf-8")
    with written_whole(page) as draft:
        draft.write_text(_MARKED.sub(lambda m: m[1] + sections(known) + "\n" + m[2], text), encoding="utf-8")


def sections(known: Mapping[str, object]) -> str:
    """The section of the parts that were measured."""
    told = [import_module(f"benchmarks.scale.{name}").section(known[name]) for name in PARTS if name in known]
    return "\n\n".join(told)


if __name__ == "__main__":
    typer.run(main)
