"""What the cells of notebooks show: sentences, tables, charts, and in their place a sentence on what is missing."""

from __future__ import annotations

import html
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from serving.account.shown import cell
from serving.bundle.manifest import BundleError
from training.charts.show import Shown, show, start
from training.charts.tables import table as table_of
from training.charts.theme import NothingToDrawError, Spec
from training.errors import TrainingError

_STYLE = "margin:.3em 0;max-width:60em"
_MOST_ROWS = 200


def first(sentences: Iterable[str]) -> Shown:
    """For the first cell: what makes charts interactive, and what is looked at."""
    return together(start(), said(*sentences))


def said(*sentences: str) -> Shown:
    """Sentences, a paragraph each."""
    return Shown("".join(f'<p style="{_STYLE}">{html.escape(one)}</p>' for one in sentences if one))


def missing(why: object) -> Shown:
    """A sentence in the place of what cannot be shown."""
    return Shown(f'<p class="missing" style="{_STYLE}"><em>Not shown: {html.escape(str(why))}</em></p>')


def together(*parts: Shown) -> Shown:
    return Shown("".join(part.markup for part in parts))


def section(make: Callable[[], Shown]) -> Shown:
    """What `make` shows, or in a sentence why that cannot be shown."""
    try:
        return make()
    except (NothingToDrawError, TrainingError, BundleError) as error:
        return missing(error)


def chart(draw: Callable[..., Spec], part: Any, *, simulated: bool, **more: Any) -> Shown:
    """A chart with the table behind it, or in a sentence why there is none."""

    def make() -> Shown:
        return show(draw(part, simulated=simulated, **more), table_of(draw.__name__, part))

    return section(make)


def frame(rows: pd.DataFrame | Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None) -> Shown:
    """A table, numbers by `formats` of their columns; nothing in it is markup."""
    table = pd.DataFrame(rows)
    if table.empty:
        return missing("there is no row for this table")
    shown, formats = table.head(_MOST_ROWS), formats or {}
    head = "".join(f'<th scope="col" style="text-align:left">{html.escape(str(name))}</th>' for name in table.columns)
    body = "".join(
        "<tr>" + "".join(_cell(value, formats.get(str(name))) for name, value in row.items()) + "</tr>"
        for row in shown.to_dict("records")
    )
    more = "" if len(table) <= _MOST_ROWS else f"<p>{len(table) - _MOST_ROWS:,} more rows are not shown.</p>"
    return Shown(
        f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>'
    )


def written(rows: pd.DataFrame, folder: Path, name: str) -> Shown:
    """Writes the table as CSV into a folder, and says where; what a spreadsheet would take for a formula is text there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    plain = rows.map(lambda value: cell(value) if isinstance(value, str) else value)
    plain.to_csv(path, index=False)
    return said(f"To take along: {path} ({len(rows):,} rows).")


def command(*words: str) -> Shown:
    """A command to copy."""
    return Shown(f"<pre><code>{html.escape(shlex.join(words))}</code></pre>")


def follow(place: Any, controls: Mapping[str, Any], make: Callable[..., Shown]) -> None:
    """Shows in `place`, a widget of HTML, what `make` shows of the values of the controls, and again whenever one changes."""

    def again(_change: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        place.value = section(lambda: make(**values)).markup

    for control in controls.values():
        control.observe(again, names="value")
    again()


def lines(text: str) -> Shown:
    """Lines of a file to copy."""
    return Shown(f"<pre><code>{html.escape(text)}</code></pre>")


def _cell(value: Any, form: str | None) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "<td></td>"
    if isinstance(value, str):
        return f'<td style="text-align:left">{html.escape(value)}</td>'
    text = (
        format(value, form)
        if form
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )
    return f'<td style="text-align:right">{html.escape(text)}</td>'
