"""The report's first screen: what a bundle saves, at which quality, how surely, and what that rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.bundle.manifest import Manifest, OperatingPoint
from training.measure.bounds import clopper_pearson_upper
from training.publish import on_the_test_part
from training.publish.pages import in_log
from training.publish.pages.basis import basis
from training.publish.pages.change import change
from training.publish.pages.month import Month
from training.publish.pages.written import count, day, money, percent, span

_NO_MONTH = "No month is known, see Volume: --set report.requests_a_month=N tells it."
_NO_VOLUME = "how many requests a month there are is not known, see Volume"
# A delta of 5%, and a tenth of it as for what is to stop a promotion.
_HARDLY = 0.005
MONTH = "requests_a_month × reference_cost_usd_per_request"


@dataclass(frozen=True)
class Figure:
    """One of the large figures: its `number` as it is computed by `formula`, as it is shown, and what stands below it.

    `key` names it in the page (`data-figure`). `number` is None where it is not known, and `value` then says so.
    """

    key: str
    label: str
    number: float | None
    value: str
    note: str
    formula: str


@dataclass(frozen=True)
class FirstScreen:
    """`title` is a sentence; `warnings` come before the figures; `basis` are (what, in words). `change` says what would change
    that nothing is certified, or that nothing is saved; None where both are."""

    title: str
    lead: str
    warnings: tuple[str, ...]
    figures: tuple[Figure, ...]
    basis: tuple[tuple[str, str], ...]
    certified: bool
    change: str | None


def first_screen(manifest: Manifest, document: Mapping[str, Any], making: Mapping[str, Any]) -> FirstScreen:
    """Every figure is the manifest's own or computed from it; `document` and `making` give words alone."""
    point, money_of = manifest.default, Month.of(manifest)
    certified = point.certificate is not None
    title = _title(manifest, money_of)
    figures = (
        (_saved(manifest, money_of), _against_log(money_of), _quality(manifest, document), _fails(manifest, point))
        if certified
        else (
            _estimate(manifest, money_of),
            _estimated_against_log(manifest, money_of),
            _moves(manifest, document),
            _quality(manifest, document),
            _chance(point),
        )
    )
    return FirstScreen(
        title=f"Simulated: {title[0].lower()}{title[1:]}" if manifest.simulated else title,
        lead=_lead(manifest, point, document),
        warnings=_warnings(manifest, document, money_of),
        figures=(*figures, *_confidence(point), _rests(manifest, document)),
        basis=basis(manifest, document, making),
        certified=certified,
        change=change(manifest, making, money_of),
    )


def _title(manifest: Manifest, month: Month) -> str:
    point, reference = manifest.default, manifest.reference
    if point.certificate is None:
        if point.always is not None:
            return f"Nothing is certified yet: every request goes to {point.always}, and nothing is saved"
        return "Nothing is certified: requests are routed by what is estimated, without a promise"
    if month.saved_usd is None:
        saves = f"Routing saves {percent(point.saving)} of what sending everything to {reference} costs"
    elif month.dearer and month.against_log_usd is not None:
        return (
            f"Routing costs {money(-month.against_log_usd)} a month more than the mix in the log, and "
            f"{money(month.saved_usd)} less than sending everything to {reference}"
        )
    elif month.against_log_usd is not None and month.against_log_usd < 0:
        saves = f"Routing costs about what the log did, {money(month.saved_usd)} a month less than all to {reference}"
    else:
        saves = f"Routing saves {money(month.saved_usd)} a month against sending everything to {reference}"
    proof = point.certificate
    return (
        f"{saves}; with {percent(1 - proof.delta)} confidence, at most {percent(proof.alpha)} of answers fail where "
        f"{reference}'s would not"
    )


def _lead(manifest: Manifest, point: OperatingPoint, document: Mapping[str, Any]) -> str:
    proof, reference = point.certificate, manifest.reference
    if proof is not None:
        return (
            f"A failure is an unacceptable answer where {reference} would have given an acceptable one. The confidence is of "
            f"failures; what is saved has an interval of its own. {on_the_test_part.said(document)}"
        ).strip()
    guess = point.estimated
    if point.always is not None:
        rest = f"Until a target is certified, {in_log.answers_everything(document, point.always)}. "
    else:
        rest = "The target is expected to be kept, and nothing proves it (policy.uncertified). "
    if guess is None or guess.saving is None:
        return rest + "What routing would save is not known: the log has too few outcomes of what would be chosen."
    return rest + (
        f"By what the log tells, routing is estimated to save {percent(guess.saving)} "
        f"({span(guess.saving_low, guess.saving_high)}) of what {reference} costs."
    )


def _warnings(manifest: Manifest, document: Mapping[str, Any], month: Month) -> tuple[str, ...]:
    found = []
    if month.dearer and manifest.default.always is not None:
        found.append(
            f"Dearer than today: all to {manifest.default.always} costs {money(month.routed_usd)} a month, the log's own mix "
            f"{money(month.logged_usd)}. Until a target is certified there is no reason to leave that mix."
        )
    elif month.dearer and manifest.default.certificate is not None:
        found.append(
            f"Dearer than today: the log's own mix costs {money(month.logged_usd)} a month, routing {money(month.routed_usd)}. "
            "It buys answers nearer to the reference's."
        )
    test = next((one["test"] for one in document.get("points", ()) if one["default"]), None)
    proof = manifest.default.certificate
    if proof is not None and test is not None and (test.get("violation_rate") or 0.0) > proof.alpha:
        few = _surely_above(test, document) <= proof.alpha
        found.append(
            f"On the {count(test['requests'])} test requests {percent(test['violation_rate'])} failed where "
            f"{manifest.reference} did not, more than the {percent(proof.alpha)} that is allowed. "
            + (
                "They are few, but look at how the log changed."
                if few
                else "That is more than chance makes of so many: the log has changed, or its parts differ otherwise."
            )
        )
    differs = None if proof is None else on_the_test_part.differs(manifest.default, document)
    above = None if proof is None else in_log.above_in_words(proof)
    return (*found, *(text for text in (differs, above) if text is not None))


def _surely_above(test: Mapping[str, Any], document: Mapping[str, Any]) -> float:
    """What the true rate of failures on the test part is hardly below: as it was measured, else by as many requests as they are
    worth, with the confidence of `PointLine.low`."""
    known = test.get("violation_low")
    if known is not None:
        return float(known)
    n = round(min(test["requests"], document.get("effective_requests") or test["requests"]))
    failed = round(test["violation_rate"] * n)
    return 1.0 - clopper_pearson_upper(n - failed, n, _HARDLY) if n else 0.0


def _saved(manifest: Manifest, month: Month) -> Figure:
    point, proof = manifest.default, manifest.default.certificate
    label = f"saved against all to {manifest.reference}"
    low, high = (proof.saving_low, proof.saving_high) if proof is not None else (None, None)
    if month.saved_usd is None or month.reference_usd is None:
        value = percent(point.saving) or "not known"
        note = f"{span(low, high)}, on calibration requests. {_NO_MONTH}"
        return Figure("saving", f"Share {label}", point.saving, value, note, "saving of the default operating point")
    note = (
        f"{percent(point.saving)} ({span(low, high)}) on calibration requests: {money(month.routed_usd)} instead "
        f"of {money(month.reference_usd)}, at {count(month.requests)} requests a month"
    )
    formula = f"{MONTH} × saving of the default operating point"
    return Figure("month_saved_usd", f"A month, {label}", month.saved_usd, money(month.saved_usd), note, formula)


def _against_log(month: Month) -> Figure:
    label, formula = (
        "A month, saved against what the log cost",
        "requests_a_month × log_cost_usd_per_request − routed a month",
    )
    saved = month.against_log_usd
    if saved is None:
        why = (
            _NO_VOLUME
            if month.requests is None
            else "no request that the log chose one candidate for has a cost of every call"
        )
        return Figure("month_saved_against_log_usd", label, None, "not known", f"{why[0].upper()}{why[1:]}.", formula)
    note = f"{money(month.logged_usd)} a month by the log's own mix, {money(month.routed_usd)} routed, by calibration requests"
    if not (month.dearer or month.cheaper):
        note += ": about what the log costs, for the difference may be chance"
    return Figure("month_saved_against_log_usd", label, saved, money(saved), note, formula)


def _quality(manifest: Manifest, document: Mapping[str, Any]) -> Figure:
    """Of the router and the requests that the saving beside it is of."""
    point, label = manifest.default, "Acceptable answers"
    if point.quality is not None:
        note = f"On {count(point.calibration_requests)} calibration requests"
        if point.certificate is not None:
            note += ", by the same choices as what is saved"
        elif document.get("basis") != "complete":
            few = "too few test requests have" if document.get("complete_requests") else "no test request has"
            note += f"; {few} an outcome of every candidate"
        if point.certificate is None and point.always is not None:
            note = f"{point.always}, as today. {note}"
        formula = "quality of the default operating point"
        return Figure("quality", label, point.quality, percent(point.quality), note, formula)
    nobody = "Calibration requests do not tell it."
    if (tested := on_the_test_part.quality(document)) is not None:
        formula = "quality of the default point on the test part, of frontier.json"
        return Figure("quality", label, tested[0], percent(tested[0]), f"{tested[1]}. {nobody}", formula)
    seen = in_log.quality_of(document, point.always) if point.always is not None else None
    if seen is not None:
        formula = "quality among the profiles of frontier.json"
        return Figure("quality", label, seen[0], percent(seen[0]), f"{seen[1]}. {nobody}", formula)
    return Figure("quality", label, None, "not known", nobody, "quality of the default operating point")


def _fails(manifest: Manifest, point: OperatingPoint) -> Figure:
    proof = point.certificate
    assert proof is not None
    note = (
        f"{percent(proof.violation_rate)} of {count(proof.requests)} calibration requests did, and the upper bound of that is "
        f"{percent(proof.bound)}"
    )
    label = f"Fail where {manifest.reference} would not, at most"
    return Figure("alpha", label, proof.alpha, percent(proof.alpha), note, "alpha of the default point's certificate")


def _confidence(point: OperatingPoint) -> tuple[Figure, ...]:
    label, proof = "Confidence in that limit", point.certificate
    if proof is None:
        return ()
    note = (
        "Of the failures, not of what is saved. Its calibration requests are worth "
        f"{count(proof.effective_requests)} independent ones"
    )
    formula = "1 − delta of the default point's certificate"
    return (Figure("confidence", label, 1 - proof.delta, percent(1 - proof.delta), note, formula),)


def _estimate(manifest: Manifest, month: Month) -> Figure:
    guess = manifest.default.estimated
    saving = None if guess is None else guess.saving
    in_usd = month.share(saving)
    formula = f"{MONTH} × estimated saving of the default operating point"
    against = f"against all to {manifest.reference}"
    if guess is None or saving is None:
        why = (
            "Nothing is expected to keep the target"
            if guess is None
            else "The log has too few outcomes of what would be chosen"
        )
        return Figure("estimated", f"Estimated saving {against}", None, "not known", f"{why}.", formula)
    span_of = span(guess.saving_low, guess.saving_high)
    if in_usd is None:
        note = f"{span_of}, by calibration requests, not certified. {_NO_MONTH}"
        formula = "estimated saving of the default operating point"
        return Figure("estimated_saving", f"Estimated saving {against}", saving, percent(saving), note, formula)
    note = (
        f"{percent(saving)} ({span_of}) of {money(month.reference_usd)} for {count(month.requests)} requests a month. "
        "An estimate by calibration requests, not certified"
    )
    label = f"Estimated saving a month {against}"
    return Figure("estimated_saved_usd", label, in_usd, money(in_usd), note, formula)


def _estimated_against_log(manifest: Manifest, month: Month) -> Figure:
    guess = manifest.default.estimated
    in_usd = month.share(None if guess is None else guess.saving)
    label, key = "Estimated saving a month against what the log cost", "estimated_saved_against_log_usd"
    formula = f"requests_a_month × log_cost_usd_per_request − {MONTH} × (1 − estimated saving)"
    if in_usd is None or month.reference_usd is None or month.logged_usd is None:
        why = "the log has too few costs to tell it"
        if month.requests is None:
            why = _NO_VOLUME
        elif guess is None or guess.saving is None:
            why = "what routing would cost could not be estimated"
        return Figure(key, label, None, "not known", f"{why[0].upper()}{why[1:]}.", formula)
    routed = month.reference_usd - in_usd
    note = (
        f"{money(month.logged_usd)} a month by the log's own mix, {money(routed)} if routed. "
        "An estimate by calibration requests, not certified"
    )
    return Figure(key, label, month.logged_usd - routed, money(month.logged_usd - routed), note, formula)


def _moves(manifest: Manifest, document: Mapping[str, Any]) -> Figure:
    point = manifest.default
    if point.always is None:
        return Figure(
            "moves",
            "Traffic that moves",
            None,
            "all of it",
            "Without a promise: policy.uncertified is set so.",
            "no figure",
        )
    share, note = in_log.share_of(document, point.always), in_log.answers_everything(document, point.always)
    moved = None if share is None else 1 - share
    value = "none" if not moved else percent(moved)
    formula = "1 − the candidate's share in candidates_logged of frontier.json, with every request going to it"
    return Figure("moves", "Traffic that moves", moved or 0.0, value, note, formula)


def _chance(point: OperatingPoint) -> Figure:
    guess, label, formula = (
        point.estimated,
        "Estimated to be worse than the reference",
        "estimated violation rate of the default point",
    )
    if guess is None:
        return Figure(
            "estimated_violations", label, None, "not known", "Nothing is expected to keep the target.", formula
        )
    note = (
        f"of calibration requests, if they were routed at a target of {percent(point.quality_target)}. "
        "No confidence is claimed"
    )
    return Figure("estimated_violations", label, guess.violation_rate, percent(guess.violation_rate), note, formula)


def _rests(manifest: Manifest, document: Mapping[str, Any]) -> Figure:
    known, log = manifest.metrics, document.get("log") or {}
    requests = known.get("log_requests")
    if requests is None:
        number, value = manifest.default.calibration_requests, count(manifest.default.calibration_requests)
        return Figure(
            "calibration_requests", "Requests it is calibrated on", number, value, "", "requests of the default point"
        )
    if known.get("log_first") is not None:
        note = f"{day(known['log_first'])} to {day(known['log_last'])}, {count(known.get('log_days'))} days"
    else:
        note = "without dates"
    note += f"; {percent(log['judged_share'])} of them judged" if "judged_share" in log else ""
    note += "; training, calibration and test"
    if (core := known.get("log_core_requests")) not in (None, requests):
        note += f"; sampled: {count(core)} of them were learned from and measured on"
    kind = "Simulated requests it rests on" if manifest.simulated else "Requests it rests on"
    return Figure("log_requests", kind, requests, count(requests), note, "requests in the log")
