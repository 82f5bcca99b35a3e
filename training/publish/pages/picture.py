"""A bundle's frontier as a picture for a slide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import vl_convert

from training.charts.frontier import frontier
from training.charts.show import VEGA_LITE, svg
from training.publish.pages.blocks import still

# Dots per point of a .png: sharp on a projector.
_SCALE = 3.0
SUFFIXES = (".png", ".svg", ".pdf")


def picture(document: Mapping[str, Any], suffix: str) -> bytes:
    """The frontier of a `frontier.json` as the content of a file; raises ValueError for a suffix that is no picture's, and
    NothingToDrawError where nothing was measured."""
    if suffix not in SUFFIXES:
        raise ValueError(f"{suffix or 'no suffix'} is no kind of picture; expected .png, .svg or .pdf")
    spec = {**frontier(document), "config": still("light")}
    if suffix == ".svg":
        return f'<?xml version="1.0" encoding="utf-8"?>\n{svg(spec)}'.encode()
    if suffix == ".pdf":
        return bytes(vl_convert.vegalite_to_pdf(spec, vl_version=VEGA_LITE))
    return bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=_SCALE))
