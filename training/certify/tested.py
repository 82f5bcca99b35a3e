"""A bundle with the head that has not seen its own log's test part."""

from __future__ import annotations

from dataclasses import replace

from serving.bundle.manifest import open_bundle
from serving.decide.router import Router

# The head that was measured, which has not learned from the test part.
TESTED_HEAD = "tested_head.onnx"


def as_tested(champion: Router) -> Router:
    """The champion with the head that its test figures are of, where its bundle keeps one (`TESTED_HEAD`).

    The head that is served has seen its own log's test part too, and a new bundle's test part may be the same requests.
    """
    if TESTED_HEAD not in champion.manifest.files:
        return champion
    bundle = open_bundle(champion.bundle.folder)
    return Router(replace(bundle, content={**bundle.content, "head.onnx": bundle.read(TESTED_HEAD)}))
