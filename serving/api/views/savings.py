"""GET /v1/savings."""

from __future__ import annotations

import logging
import time
from typing import Annotated, Literal

import orjson
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.exceptions import HTTPException

from serving.account.savings import ENOUGH, Method
from serving.account.shown import as_csv, document
from serving.account.window import MOST_DAYS, USUAL_DAYS, By, Window, WindowError
from serving.api.auth import caller
from serving.api.endpoints import service_of
from serving.api.parsing import BodyError
from serving.api.views.table import View
from serving.api.views.turns import Turns
from serving.runtime.pipeline import Service
from serving.store.savings import Asking

logger = logging.getLogger(__name__)

CSV = "text/csv"
# Any key may ask, each time for sums over all of its decisions: so many at once, so many others wait.
_AT_ONCE, _WAITING = 2, 16
_WHEN = "Seconds since 1970, or ISO 8601; UTC where it names no zone."


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RoutingCosts(_Document):
    """What routing itself cost, in USD, at the decisions that are compared and, told apart, at the others: these costs
    have no part in what is said to be saved, as those decisions have none."""

    exploration_usd: float = Field(
        description="What exploring was expected to cost beyond those who would have been chosen: below 0 where that was "
        "cheaper. It is in what was paid, and not subtracted again."
    )
    also_usd: float = Field(description="Answers of those who were asked too: as told, until then as expected.")
    judge_usd: float = Field(description="Judging, as feedback tells it (`judge_cost_usd`).")
    uncompared_exploration_usd: float = Field(
        description="As `exploration_usd`, at the decisions that are not compared; not subtracted, as the next two are not."
    )
    uncompared_also_usd: float = Field(description="As `also_usd`, at these.")
    uncompared_judge_usd: float = Field(description="As `judge_usd`, at these.")


class SavingsLine(_Document):
    """The account of some decisions, in USD: `saved_usd` is `reference_usd - compared_usd` less `also_usd` and `judge_usd`."""

    name: str | None = Field(description="The line's; null of decisions without one, of the total and of `other`.")
    decisions: int
    costed: int = Field(description="Whose cost feedback tells.")
    uncosted: int = Field(description="The others: nothing of them is counted as saved.")
    compared: int = Field(
        description="Of the costed, those not held back and whose reference is known: what is compared."
    )
    without_reference: int = Field(description="Stored before the reference's expected cost was, or it is not known.")
    held_back: int = Field(description="Decisions that were not followed; not compared.")
    failed: int = Field(description="Calls that failed, at which the reference is taken to have cost nothing either.")
    actual_usd: float = Field(description="What the costed decisions cost.")
    expected_usd: float = Field(description="What was expected of these.")
    compared_usd: float = Field(description="What those that are compared cost.")
    reference_usd: float | None = Field(
        description="What the reference would have cost at these; null where none is compared, as the next five are."
    )
    reference_low: float | None = Field(
        description="The lower end: of a 95% interval where `method` is the reference's own answers; else no level is known."
    )
    reference_high: float | None = Field(description="The upper end; null where nothing says.")
    saved_usd: float | None = Field(
        description="Below 0 where routing cost more than it saved; null where none is compared."
    )
    saved_low: float | None
    saved_high: float | None
    saving: float | None = Field(description="As a share of `reference_usd`.")
    judged: int = Field(
        description="Answers that were judged; hints, failed calls and decisions that were held back are not counted."
    )
    quality: float | None = Field(description="Mean quality of these.")
    quality_low: float | None = Field(description="The lower end of its 95% interval (Wilson), by conversation.")
    quality_high: float | None
    held_back_judged: int = Field(description="Answers to decisions that were held back which were judged.")
    held_back_quality: float | None = Field(description="Mean quality of these, for who would compare it.")
    routing_costs: RoutingCosts


class ReferenceCost(_Document):
    """What a reference's answers cost for each dollar that was expected of them, over all workflows and keys together, between
    `low` and `high`: a 95% interval if it is by its own answers, else without a level. It is for orientation: the total and the
    lines use a ratio of each workflow and key, so nothing is to be multiplied by this one."""

    reference: str
    method: Method = Field(
        description=f"From what: its own answers of at least {ENOUGH} conversations; other candidates' answers, between the "
        "lowest and the highest of theirs; or, without either, no less than the prompts alone cost."
    )
    ratio: float = Field(
        description="Pooled over all workflows and keys, for orientation. Amounts are worked out by strata (a workflow's "
        "decisions for a key), each with a ratio of its own: multiplying by this one does not give them."
    )
    low: float = Field(description="Of the pooled ratio.")
    high: float | None = Field(description="Of the pooled ratio; null where nothing bounds it.")
    answers: int
    conversations: int


class SavingsResponse(_Document):
    """What routing saved against sending everything to the reference, whose answers nobody has: hence the intervals."""

    since: str = Field(alias="from", description="UTC; decisions made from then on.")
    until: str = Field(alias="to", description="UTC; and before that.")
    by: By
    method: Method | None = Field(description="The least sure one of the references'; null without any decision.")
    references: list[ReferenceCost] = Field(description="Pooled ratios, for orientation; the lines use strata.")
    total: SavingsLine
    lines: list[SavingsLine] = Field(description="At most 1,000: the busiest first, days in their order.")
    other: SavingsLine | None = Field(description="What came to no line of its own.")


async def savings(
    request: Request,
    by: Annotated[By, Query(description="What there is a line for.")] = By.DAY,
    since: Annotated[
        str | None,
        Query(alias="from", max_length=64, description=f"{_WHEN} {USUAL_DAYS} days before `to`, at most {MOST_DAYS}."),
    ] = None,
    until: Annotated[str | None, Query(alias="to", max_length=64, description=f"{_WHEN} Now, without it.")] = None,
    form: Annotated[
        Literal["json", "csv"] | None, Query(alias="format", description="Without it, as Accept asks for.")
    ] = None,
) -> Response:
    """What decisions cost, what the reference would have cost, what routing itself cost, and the quality by feedback.

    A key that may administer sees all decisions, another its own. What the reference would have cost is an interval: where it
    answered itself, what was told, elsewhere what was expected of it, as its own answers came to more or less than that.
    A key that may not administer asks once at a time.
    """
    service = service_of(request)
    key = await caller(request, service)
    if service.store is None:
        raise HTTPException(404, "This service stores no decisions (ROUTER_STORE is empty).")
    try:
        window = Window.asked(by, since, until, time.time(), _own(service, key))
    except WindowError as error:
        raise BodyError.on(error.field, str(error)) from None
    state = request.app.state
    if not hasattr(state, "savings"):
        state.savings = Turns(_AT_ONCE, _WAITING)
    asking, engine = Asking(), service.store.engine
    try:
        found = await state.savings.ask(request, window.key, lambda: asking.savings(engine, window), asking.stop)
    except OperationalError:
        why = "The store did not answer in time; ask for a shorter time, or again later."
        raise HTTPException(503, why, {"Retry-After": "10"}) from None
    except SQLAlchemyError as error:
        logger.warning("savings cannot be summed by the store: %s", type(error).__name__)
        why = "The store cannot sum the savings now; ask again later."
        raise HTTPException(503, why, {"Retry-After": "10"}) from None
    if form == "csv" or (form is None and _wants_csv(request)):
        name = {"Content-Disposition": f'attachment; filename="savings-by-{by.value}.csv"'}
        return Response(as_csv(found), headers=name, media_type=f"{CSV}; charset=utf-8")
    return Response(orjson.dumps(document(found)), media_type="application/json")


def _own(service: Service, key: str | None) -> str | None:
    """Whose decisions the caller may see alone; None: everybody's."""
    rules = (
        None if key is None else service.rules.keys.get(key)
    )  # one just taken out of the rule file has its own at most
    return None if rules is not None and rules.admin else key


def _wants_csv(request: Request) -> bool:
    accepted = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")]
    return CSV in accepted and "application/json" not in accepted


VIEW = View(
    "/v1/savings",
    savings,
    SavingsResponse,
    "operations",
    (
        (401, "No API key, or one that is not known."),
        (404, "Nothing is stored."),
        (422, "A parameter is wrong, and `errors` names it."),
        (429, "The API key is over its rate, or asks for its savings already."),
        (503, "Too many ask at once, the store does not answer in time, or no bundle is loaded yet."),
    ),
    CSV,
)
