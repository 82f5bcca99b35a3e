"""From what a log holds to what it can and cannot support, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import NO_WORKFLOW
from training.config import Params
from training.inspect.report import Finding, LogReport
from training.logs.aliases import alike
from training.measure.offpolicy import MINIMUM_EFFECTIVE


def findings(report: LogReport, catalogue: Mapping[str, Candidate], params: Params) -> tuple[Finding, ...]:
    """One or more for each thing that training needs, in the order in which it would miss them."""
    return (
        _choice(report),
        *_names(report, catalogue),
        _judgements(report),
        _costs(report),
        *_chains(report),
        *_certificates(report, params),
        _single_outcomes(report),
        Finding(not report.split.startswith("not possible"), f"a split: {report.split}"),
        _tags(report),
    )


def _choice(report: LogReport) -> Finding:
    names = [candidate.name for candidate in report.candidates]
    if len(names) < 2:
        return Finding(
            False,
            f"a choice: every outcome is of {names[0]}. Send a share of the traffic to a second candidate, or import an "
            "evaluation run",
        )
    return Finding(True, f"a choice: {len(names)} candidates")


def _names(report: LogReport, catalogue: Mapping[str, Candidate]) -> list[Finding]:
    """Names that may be one LLM's, which would count apart and never be complete together."""
    rows = {candidate.name: candidate.rows for candidate in report.candidates}
    return [
        Finding(
            False,
            f"names: {', '.join(names.aliases)} may be {names.candidate} by another name. If so, make them its aliases in the "
            "catalogue",
        )
        for names in alike(rows, tuple(catalogue))
    ]


def _judgements(report: LogReport) -> Finding:
    silent = [candidate.name for candidate in report.candidates if candidate.judged == 0]
    if silent:
        return Finding(
            False,
            f"quality: no outcome of {', '.join(silent)} was judged. Add quality for some of its rows, or leave it out",
        )
    return Finding(True, f"quality: {100 * report.judged:.1f}% of rows are judged, some of every candidate")


def _costs(report: LogReport) -> Finding:
    hopeless = [c.name for c in report.candidates if c.costed < 1 and not c.priced]
    if hopeless:
        return Finding(
            False,
            f"costs: rows of {', '.join(hopeless)} have no cost and the catalogue has no price for them. "
            "`router-train catalogue` looks prices up",
        )
    computed = sum(round((1 - c.costed) * c.rows) for c in report.candidates)
    return Finding(True, f"costs: logged for {report.rows_used - computed:,} rows, {computed:,} are priced from tokens")


def _chains(report: LogReport) -> list[Finding]:
    if not report.chained:
        return []
    what = f"chains: {report.chained:,} outcomes came after another candidate's failure: they count for costs, not for quality"
    return [Finding(True, what)]


def _certificates(report: LogReport, params: Params) -> list[Finding]:
    found = []
    for target in report.targets:
        claim = f"a certificate at {100 * target.alpha:g}% with {100 * (1 - target.delta):g}% confidence"
        if target.possible:
            what = (
                f"{claim}: {target.requests:,} complete requests to certify on, {target.requests_needed:,} do if the router "
                f"violates none of them (bound then {100 * target.best_bound:.2f}%)"
            )
        else:
            what = (
                f"{claim}: {target.requests:,} complete requests to certify on (best bound {100 * target.best_bound:.2f}%), "
                f"{target.requests_needed:,} are needed without a violation among them: about {target.more_requests:,} more "
                f"requests judged on every candidate, {target.more_judged_rows:,} judged rows"
            )
            if target.requests < params.policy.minimum_requests:
                what += "; single outcomes can stand in, weighted by propensity, at a looser bound"
        found.append(Finding(target.possible, what))
    return found


def _single_outcomes(report: LogReport) -> Finding:
    if report.requests_of_all_candidates == report.requests and len(report.candidates) > 1:
        return Finding(True, "single outcomes: none, every candidate was tried on every request")
    if not report.propensities:
        return Finding(
            False,
            "propensities: not logged. Training estimates them from text and workflow, which is right only if nothing else "
            "moved the choice; log the probability with which each candidate was chosen",
        )
    thin = [c.name for c in report.candidates if (c.effective_sample or 0.0) < MINIMUM_EFFECTIVE]
    known = f"propensities: logged for {report.propensities:,} of {report.rows_used:,} rows"
    if thin:
        return Finding(
            False,
            f"{known}; too few for off-policy estimates of {', '.join(thin)} (effective sample below {MINIMUM_EFFECTIVE:g})",
        )
    return Finding(True, f"{known}, an effective sample of at least {MINIMUM_EFFECTIVE:g} for every candidate")


def _tags(report: LogReport) -> Finding:
    tagged = sum(workflow.rows for workflow in report.workflows if workflow.name != NO_WORKFLOW)
    if not tagged:
        return Finding(False, "workflows: no row has a tag; the router goes by text alone")
    return Finding(True, f"workflows: {100 * tagged / report.rows_used:.1f}% of rows are tagged")
