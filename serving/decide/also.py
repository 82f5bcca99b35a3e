"""Asking another candidate too: which ones may be, and which one is. The answer stays the decision's own."""

from __future__ import annotations

from collections.abc import Sequence

from serving.decide.decision import Also, Alternative, Decision
from serving.decide.globs import matches


def may_be_asked(decision: Decision, globs: Sequence[str] = ()) -> list[Alternative]:
    """The other candidates that the decision's own rules leave, in the bundle's order; of those the `globs` name, if any.

    One whose cost is not known has none that could be held against a cap, and is not asked. Nor is anybody beside a decision
    that was made without estimates.
    """
    if decision.confidence is None:
        return []
    return [
        one
        for one in decision.alternatives
        if one.ruled_out is None
        and one.candidate != decision.candidate
        and one.expected_cost_usd is not None
        and (not globs or any(matches(one.candidate, glob) for glob in globs))
    ]


def drawn(among: Sequence[Alternative], reference: str, share: float, place: float) -> Also:
    """One of those who may be asked (at least one) by `place` in [0, 1), and its probability: `share` times its part.

    The reference has one half, for it is the pair of it and the served one that certifies; the others have equal parts of the
    rest. Where the reference answers itself, or may not be asked, the others have equal parts of all.
    """
    others = [one for one in among if one.candidate != reference]
    favoured = [one for one in among if one.candidate == reference]
    if favoured and others:
        share, place = share / 2.0, 2.0 * place
        if place < 1.0:
            return _also(favoured[0], share)
        place -= 1.0
    equal = others or favoured
    return _also(equal[min(int(place * len(equal)), len(equal) - 1)], share / len(equal))


def _also(one: Alternative, propensity: float) -> Also:
    return Also(one.candidate, propensity, one.expected_cost_usd or 0.0)
