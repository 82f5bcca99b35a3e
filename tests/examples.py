"""How many examples a property is tried with, where each takes long."""

from __future__ import annotations

import os

from hypothesis import settings

# What looks for new examples (HYPOTHESIS_PROFILE=random) takes its time; the suite tries the same ones each time.
_MORE = 1 if os.environ.get("HYPOTHESIS_PROFILE", "suite") == "suite" else 20


def examples(count: int) -> settings:
    """So many examples in the suite, and twenty times as many where others are looked for."""
    return settings(max_examples=count * _MORE)
