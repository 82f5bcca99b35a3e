"""The answer to a request that asks what its decision rests on, or that only tries one: found in a thread, after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from serving.api.bodies.route import RouteBody
from serving.api.documents import decision_document, said
from serving.api.evidence.choices import Choices, knobs_of, without_estimates
from serving.api.evidence.turns import NoTurnError, Turns
from serving.bundle.arrays import Floats32
from serving.bundle.manifest import Manifest
from serving.bundle.neighbours import Neighbours
from serving.decide.decision import Decision, Reason
from serving.decide.eligibility import NoEligibleCandidateError
from serving.runtime.embedding import Embedded
from serving.runtime.live import Serving
from serving.runtime.pipeline import Service
from serving.runtime.recording import Case
from serving.state.budgets import Allowance
from serving.state.rulebook import RuleBook

logger = logging.getLogger(__name__)

NEAREST = 10
DRY_RUN = "dry-run"
# What overrules the choice by value and cost.
_OVERRULING = frozenset(Reason) - {Reason.BEST_VALUE, Reason.ONLY_ELIGIBLE, Reason.REFERENCE, Reason.UNCERTIFIED}
_NOT_SHOWN = "Logged requests are shown to keys that may administer, and to keys that are bound to workflows."
NO_TURN = "Too many decisions are being explained; ask again."
_NOT_EMBEDDED = "Its text was not embedded in time, or could not be."
_FAILED = "It could not be found out; the log says why."
_NOT_HERE = "Decisions are explained over HTTP alone."
Shown = tuple[str, Decision, dict[str, object]]


@dataclass(frozen=True)
class Sight:
    """What a caller may see of the logged requests: their ids and texts if `named`, and those of these workflows; None: all.

    Who may not see all is told a similarity to one decimal: a finer one would say whether the very same text is in the log.
    """

    named: bool
    workflows: tuple[str, ...] | None

    @classmethod
    def of(cls, service: Service, key: str | None) -> Sight:
        """All is seen by a key that may administer, and by everybody where the rules have no keys; another key sees those of
        the workflows that it is bound to. A key that is bound to none may send any workflow, but the log is not its own.
        """
        if key is None:
            return cls(True, None)
        rules = service.rules.keys.get(key)
        if rules is None:  # it has just been taken out of the rule file
            return cls(False, ())
        return cls(True, None) if rules.admin else cls(False, rules.workflows)


async def shown(service: Service, case: Case, asked: RouteBody, turns: Turns | None) -> Shown:
    """The decision's id, itself and its document, which has what was asked for; raises as the decision itself does.

    A dry run is decided by the rules, the bundle and what the budgets leave: nothing is charged, and it is only counted.
    Where there are no `turns`, nothing is explained.
    """
    serving = service.live.current
    if asked.dry_run:
        service.metrics.tried(case.key)
        embedded = await service.embedding.one(serving, case.request.text)
        decision = service.reservations.tried(case.scopes, _trial(serving, case, service.rules, embedded))
        document = decision_document(DRY_RUN, decision, asked.misspelt) | {"dry_run": True}
        if asked.explain:
            document |= await _explained(service, serving, case, decision, embedded, turns)
        return DRY_RUN, decision, document
    identifier, decision = await service.route(case)
    if decision.bundle != serving.router.manifest.version:
        serving = service.live.current
    document = decision_document(identifier, decision, asked.misspelt)
    started = time.perf_counter()
    embedded = await service.embedding.one(serving, case.request.text)  # known, as a rule
    document |= await _explained(service, serving, case, decision, embedded, turns)
    service.metrics.stage("explain", time.perf_counter() - started)
    return identifier, decision, document


def _trial(serving: Serving, case: Case, rules: RuleBook, embedded: Embedded) -> Callable[[Allowance], Decision]:
    """What decides a dry run for what the budgets leave, with an embedding or without one."""
    if isinstance(embedded, Reason):
        return partial(without_estimates, serving.router, case, embedded)
    return Choices.of(serving.router, case, rules, embedded).under


async def _explained(
    service: Service, serving: Serving, case: Case, decision: Decision, embedded: Embedded, turns: Turns | None
) -> dict[str, object]:
    """What a decision rests on that was made already, or why that is not said: nothing here takes the decision back."""
    if turns is None:
        return {"explanation": None, "unexplained": _NOT_HERE}
    if isinstance(embedded, Reason):
        return {"explanation": None, "unexplained": _NOT_EMBEDDED}

    def found() -> dict[str, object]:
        started = time.perf_counter()
        choices = Choices.of(serving.router, case, service.rules, embedded)
        return explanation(choices, decision, embedded, Sight.of(service, case.key), started)

    try:
        return {"explanation": await turns.call(found)}
    except NoTurnError:
        return {"explanation": None, "unexplained": NO_TURN}
    except Exception:
        logger.exception("a decision could not be explained")
        return {"explanation": None, "unexplained": _FAILED}


def explanation(
    choices: Choices, decision: Decision, embedding: Floats32, sight: Sight, started: float
) -> dict[str, object]:
    """What a decision rests on, as `Explanation` describes it; `started` is when that began, by `time.perf_counter`."""
    manifest = choices.router.manifest
    ruled_out = {one.candidate: one.ruled_out for one in decision.alternatives if one.ruled_out is not None}
    scopes = choices.scopes_of(ruled_out)
    flips = []
    for one in choices.flips():
        low, high = knobs_of(one, manifest.knobs)
        place = {"from_cost_quality": said(one.low), "to_cost_quality": said(one.high)}
        knobs = {"knob_low": said(low), "knob_high": said(high)}
        flips.append({**place, **knobs, "model": one.model, "certified": one.certified})
    return {
        **_near(choices.router.neighbours, manifest, embedding, sight),
        "flips": flips,
        "points": [
            {"name": name, "quality_target": target, "model": one.candidate, "certificate": one.certificate is not None}
            for name, target, one in choices.points()
        ],
        "overrides": _overrides(choices, decision),
        "counterfactual": _counterfactual(manifest, decision),
        "rules": [{"model": model, "rule": rule, "scopes": scopes[model]} for model, rule in ruled_out.items()],
        "seconds": said(time.perf_counter() - started),
    }


def _overrides(choices: Choices, decision: Decision) -> list[str]:
    """Why the choice is not the one by value and cost, by the decision itself and by what it is without what came before."""
    reasons = [decision.reason]
    if decision.reason is not Reason.NO_CANDIDATE:
        # One that was held back stands where nobody is eligible, too: then there is no own choice.
        with suppress(NoEligibleCandidateError):
            reasons.append(choices.own.reason)
    return [reason.value for reason in dict.fromkeys(reasons) if reason in _OVERRULING]


def _counterfactual(manifest: Manifest, decision: Decision) -> dict[str, object]:
    [reference] = [one.expected_cost_usd for one in decision.alternatives if one.candidate == manifest.reference]
    saving = share = None
    if reference is not None and decision.expected_cost_usd is not None:
        saving = reference - decision.expected_cost_usd
        share = saving / reference if reference > 0 else None
    money = {"expected_cost_usd": said(reference), "saving_usd": said(saving), "saving": said(share)}
    return {"model": manifest.reference, **money}


def _near(known: Neighbours | None, manifest: Manifest, embedding: Floats32, sight: Sight) -> dict[str, object]:
    """The nearest logged requests that the caller may see, and among how many they were looked for."""
    if known is None:
        return {"nearest": [], "searched": 0, "of": 0, "why_none": "This bundle has no logged requests along."}
    if sight.workflows == ():
        return {"nearest": [], "searched": 0, "of": 0, "why_none": _NOT_SHOWN}
    searched, of = len(known), known.total
    if sight.workflows is not None:  # how many others there are is not told
        searched = of = int(known.of_workflows(sight.workflows).sum())
    found = known.nearest(embedding[0], NEAREST, workflows=sight.workflows)
    why = None
    if not found:
        why = (
            "The request has no text to compare." if searched else "It has none of the workflows that this key is for."
        )
    acceptable = np.float32(manifest.acceptable)
    nearest = [
        {
            "id": known.ids[one.row] if sight.named else None,
            "workflow": known.workflows[one.row],
            "similarity": said(one.similarity if sight.workflows is None else round(one.similarity, 1)),
            "text": known.texts[one.row] if sight.named and known.texts is not None else None,
            "outcomes": _outcomes(known, one.row, acceptable),
        }
        for one in found
    ]
    return {"nearest": nearest, "searched": searched, "of": of, "why_none": why}


def _outcomes(known: Neighbours, row: int, acceptable: Any) -> list[dict[str, object]]:
    """What came of each candidate that was tried; compared as it was kept, for 0.7 is less in float32 than it is in float64."""
    outcomes: list[dict[str, object]] = []
    for column, name in enumerate(known.candidates):
        quality, cost = known.quality[row, column], known.cost_usd[row, column]
        if not known.logged[row, column] and np.isnan(quality):
            continue
        judged = not np.isnan(quality)
        outcomes.append(
            {
                "model": name,
                "acceptable": bool(quality >= acceptable) if judged else None,
                "quality": said(float(quality)) if judged else None,
                "cost_usd": None if np.isnan(cost) else said(float(cost)),
                "error": bool(known.error[row, column]),
            }
        )
    return outcomes
