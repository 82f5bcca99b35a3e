"""Every error class of training is a TrainingError, and the tree in its file names it."""

from __future__ import annotations

import ast
from pathlib import Path

import training
from training import errors

ROOT = Path(training.__file__).parent


def test_every_error_class_derives_from_the_one_base_and_is_in_the_tree() -> None:
    found = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }
    assert len(found) > 10
    for name, bases in found.items():
        assert name in str(errors.__doc__)
        assert name == "TrainingError" or bases & {"TrainingError", "OutcomeError", "ObjectStoreError"}
