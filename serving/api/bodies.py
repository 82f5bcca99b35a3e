"""The bodies of requests, as they arrive.

They are read leniently where OpenAI's chat completions vary (unknown fields are ignored, so that a body made for an LLM can be
sent as it is) and strictly in the fields that are used. An unknown field that is spelt nearly like one that is used is told.
"""

from __future__ import annotations

import json
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, LiteralString, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from serving.api.chat import Messages, ResponseFormat, Tools, resembling
from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Objective
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.store.feedback import Feedback

# No batch may be longer, whatever ROUTER_MAX_BATCH says: it is refused before anything in it is looked at.
MOST_IN_A_BATCH = 4_096
# Of so many unknown fields, none of them longer, the name is looked at; of as many again that may be about privacy.
_MOST_LOOKED_AT, _LONGEST_LOOKED_AT = 32, 40
# Where a slip would keep or send what may not be kept or sent, it is refused and not only told.
_OF_PRIVACY = frozenset({"privacy", "zero_retention", "self_hosted", "no_training", "zdr"})
_PRIVATE_INITIALS = frozenset(name[0] for name in _OF_PRIVACY)

_PROMPT: JsonDict = {
    "prompt": "Summarise this ticket in one line: the invoice of May was charged twice.",
    "workflow": "support",
}
_CHAT: JsonDict = {
    "messages": [
        {"role": "system", "content": "You write SQL."},
        {"role": "user", "content": "Monthly revenue per region, last year."},
    ],
    "deny": ["acme/*"],
    "quality_target": 0.9,
    "max_output_tokens": 500,
}

Name = Annotated[str, Field(min_length=1, max_length=256)]
# A tag that a client makes up: it is stored, and told apart from others, with every decision.
Label = Annotated[str, Field(max_length=256)]
Globs = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=64, fail_fast=True)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)]


def _refused(field: str, kind: LiteralString, message: LiteralString, **said: str) -> ValidationError:
    """An error about one field: one of the model as a whole would have no field to name."""
    located = InitErrorDetails(type=PydanticCustomError(kind, message, said), loc=(field,), input=None)
    return ValidationError.from_exception_data("body", [located], hide_input=True)


class Privacy(BaseModel):
    """Demands on where a request may go. What the catalogue does not say of a candidate counts as no."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid", frozen=True)

    zero_retention: bool = Field(default=False, description="Only where nothing of the request is kept.")
    self_hosted: bool = Field(default=False, description="Only candidates that we host ourselves.")
    no_training: bool = Field(default=False, description="Only where requests are not trained on.")
    regions: list[Name] | None = Field(
        default=None, max_length=64, description="Only candidates that answer from these regions."
    )


_NO_DEMANDS = Privacy()


def _in_privacy(value: Any) -> None:
    """A demand that is not where it is looked for would be ignored like any unknown field, and the prompt be kept."""
    if value is not None:
        raise PydanticCustomError(
            "misplaced", "this goes into privacy: {...} (zdr into provider: {...}), where alone it is looked for"
        )


# In no schema: a demand on privacy that stands beside `privacy`, not in it.
InPrivacy = SkipJsonSchema[Annotated[Any, AfterValidator(_in_privacy)]]


class RouteBody(BaseModel):
    """One request to route: exactly one of `prompt` and `messages`. Unknown fields are ignored."""

    model_config = ConfigDict(
        strict=True,
        hide_input_in_errors=True,
        extra="allow",
        json_schema_extra={"examples": [_PROMPT, _CHAT]},
        title="RouteBody",
    )

    prompt: str | None = Field(default=None, description="The prompt, when it is a single text. May be empty.")
    messages: Messages | None = Field(default=None, description="The conversation so far, as OpenAI chat messages.")
    workflow: Label | None = Field(
        default=None, description="The kind of work, as logs tag it. One the bundle does not know counts as none."
    )
    session_id: Label | None = Field(default=None, description="The conversation that this request belongs to.")
    allow: Globs | None = Field(
        default=None,
        description="Globs over candidate names; only a match may be chosen. Empty: all.",
    )
    deny: Globs | None = Field(
        default=None,
        description="Globs over candidate names that may not be chosen. Wins over `allow`.",
    )
    quality_target: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="1 - alpha: in at most alpha of the requests may the chosen candidate fail where the reference would "
        "not have. Picks the bundle's operating point with the lowest target that is at least as high; above the highest "
        "one, the reference candidate is used.",
    )
    cost_quality: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Instead of a target: a place between 0, the cheapest, and 10, quality alone. Nothing is certified there.",
    )
    max_cost_usd: float | None = Field(default=None, ge=0, description="Highest expected cost of the request, in USD.")
    max_latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="Highest expected 95th percentile of latency; one that is not known is too high.",
    )
    requires: list[Capability] | None = Field(
        default=None,
        max_length=len(Capability),
        description="What the candidate has to be known for; an OpenAI body says it by its shape.",
    )
    privacy: Privacy | None = Field(
        default=None, description="What has to be known of how the candidate treats the data."
    )
    objective: Objective | None = Field(
        default=None,
        description="Maximise the chance of an acceptable answer, or expected quality; null: as trained for.",
    )
    tools: Tools | None = Field(
        default=None, description="OpenAI tools. If there are any, the candidate has to be able to call them."
    )
    functions: Tools | None = Field(default=None, description="OpenAI's older name of tools.")
    response_format: ResponseFormat | None = Field(default=None, description="OpenAI response format.")
    max_output_tokens: Tokens | None = Field(
        default=None,
        description="Room to leave for the answer. Of this and the next two, the largest that is set counts.",
    )
    max_completion_tokens: Tokens | None = Field(default=None, description="OpenAI's name of it.")
    max_tokens: Tokens | None = Field(default=None, description="OpenAI's older name of it.")
    zero_retention: InPrivacy = None
    self_hosted: InPrivacy = None
    no_training: InPrivacy = None
    regions: InPrivacy = None
    zdr: InPrivacy = None
    provider: Any = Field(
        default=None, description="OpenRouter's: `zdr` is `zero_retention`, `data_collection: deny` is `no_training`."
    )

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            arrived = "neither" if self.prompt is None else "both"
            misspelt = "".join(f" ({one})" for one in self.misspelt)
            message = "give exactly one of prompt and messages; {arrived} arrived{misspelt}"
            raise _refused("prompt", "one_of", message, arrived=arrived, misspelt=misspelt)
        for name, meant in self.slips:
            asked = (self.__pydantic_extra__ or {})[name]
            if meant in _OF_PRIVACY and asked is not None and asked is not False:
                raise _refused(name, "misspelt", "nothing reads this; did you mean {meant}?", meant=meant)
        if self.quality_target is not None and self.cost_quality is not None:
            message = "give at most one of quality_target and cost_quality; both arrived"
            raise _refused("cost_quality", "one_of", message)
        return self

    @cached_property
    def slips(self) -> list[tuple[str, str]]:
        """Unknown fields, a few of them, each with the field that it is spelt nearly like."""
        unknown = [name for name in self.__pydantic_extra__ or () if len(name) <= _LONGEST_LOOKED_AT]
        private = (name for name in unknown if name[:1].lower() in _PRIVATE_INITIALS)
        names = dict.fromkeys((*unknown[:_MOST_LOOKED_AT], *islice(private, _MOST_LOOKED_AT)))
        told = [(name, resembling(name, _FIELDS)) for name in names]
        return [(name, meant) for name, meant in told if meant]

    @property
    def misspelt(self) -> tuple[str, ...]:
        """What is said of each of them: nothing reads it."""
        return tuple(f"{name}: did you mean {meant}?" for name, meant in self.slips)

    @property
    def room(self) -> int | None:
        """The most tokens that the answer may have, by whichever name: null says nothing, and never takes a limit away."""
        return max(
            (one for one in (self.max_output_tokens, self.max_completion_tokens, self.max_tokens) if one is not None),
            default=None,
        )

    @property
    def definitions(self) -> str:
        """The text of the tools and the schema that are sent along: an LLM reads it as it reads the prompt."""
        schema = self.response_format.get("json_schema") if self.response_format is not None else None
        # Not orjson, which takes no integer of more than 64 bits.
        return "\n".join(
            json.dumps(one, ensure_ascii=False) for one in (self.tools, self.functions, schema) if one is not None
        )

    def request(self) -> RouteRequest:
        """What the router looks at."""
        return RouteRequest(
            prompt=self.prompt,
            messages=self.messages,
            workflow=self.workflow,
            session_id=self.session_id,
            tools=bool(self.tools or self.functions),
            json_schema=self.response_format is not None and self.response_format["type"] == "json_schema",
            definitions=self.definitions,
            max_output_tokens=self.room,
        )

    def policy(self) -> Policy:
        """What the caller asks of the decision."""
        privacy = self.privacy or _NO_DEMANDS
        provider = self.provider if isinstance(self.provider, dict) else {}
        return Policy(
            allow=(tuple(self.allow),) if self.allow else (),
            deny=tuple(self.deny or ()),
            requires=frozenset(self.requires or ()),
            zero_retention=privacy.zero_retention or provider.get("zdr") is True,
            self_hosted=privacy.self_hosted,
            no_training=privacy.no_training or provider.get("data_collection") == "deny",
            regions=(frozenset(privacy.regions),) if privacy.regions else (),
            max_cost_usd=self.max_cost_usd,
            max_latency_ms=self.max_latency_ms,
            quality_target=self.quality_target,
            cost_quality=self.cost_quality,
            objective=self.objective,
        )


_FIELDS = tuple(RouteBody.model_fields)


class BatchBody(BaseModel):
    """Requests to route together; each carries its own policy."""

    model_config = ConfigDict(
        strict=True, hide_input_in_errors=True, json_schema_extra={"examples": [{"requests": [_PROMPT, _CHAT]}]}
    )

    requests: list[RouteBody] = Field(
        min_length=1,
        max_length=MOST_IN_A_BATCH,
        fail_fast=True,
        description="At least 1; the most is a setting (256 by default).",
    )


class FeedbackBody(BaseModel):
    """What came of one decision. What is not given is not said, and may be sent later; the same again changes nothing."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid", allow_inf_nan=False)

    decision_id: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+$", description="The decision's `id`.")
    quality: float | None = Field(
        default=None, ge=0, le=1, description="How good the answer was, if somebody judged it."
    )
    accepted: bool | None = Field(default=None, description="Instead of a quality: true is 1, false is 0.")
    cost_usd: float | None = Field(default=None, ge=0, le=1e4, description="What the call cost.")
    input_tokens: int | None = Field(default=None, ge=0, le=10**12)
    output_tokens: int | None = Field(default=None, ge=0, le=10**12)
    latency_ms: float | None = Field(default=None, ge=0, description="How long the call took.")
    error: bool | None = Field(default=None, description="Whether the call failed; its quality is then 0.")
    model: Name | None = Field(default=None, description="Who answered, if a fallback did.")
    replace: bool = Field(
        default=False, description="Whether this takes the place of what was said before; without it that is a 409."
    )

    @model_validator(mode="after")
    def _one_judgement(self) -> Self:
        if self.quality is not None and self.accepted is not None:
            raise _refused("accepted", "one_of", "give at most one of quality and accepted; both arrived")
        return self

    def feedback(self) -> Feedback:
        """What the store keeps of it."""
        judged = self.quality if self.accepted is None else float(self.accepted)
        return Feedback(
            decision_id=self.decision_id,
            quality=0.0 if self.error else judged,
            candidate=self.model,
            cost_usd=self.cost_usd,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            latency_ms=self.latency_ms,
            error=self.error,
            replace=self.replace,
        )


class FeedbackBatchBody(BaseModel):
    """Feedback on several decisions."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid")

    feedback: list[FeedbackBody] = Field(
        min_length=1,
        max_length=MOST_IN_A_BATCH,
        fail_fast=True,
        description="At least 1; the most is a setting (256 by default).",
    )


def _feedback_branch(document: Any) -> str:
    return "<many>" if isinstance(document, dict) and "feedback" in document else "<one>"


_OneOrMany = Annotated[
    Annotated[FeedbackBody, Tag("<one>")] | Annotated[FeedbackBatchBody, Tag("<many>")], Discriminator(_feedback_branch)
]


class FeedbackOneOrMany(RootModel[_OneOrMany]):
    """What POST /v1/feedback takes: feedback on one decision, or a list of it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    @property
    def several(self) -> bool:
        """Whether it came as a list, of one perhaps."""
        return isinstance(self.root, FeedbackBatchBody)

    @property
    def bodies(self) -> list[FeedbackBody]:
        return self.root.feedback if isinstance(self.root, FeedbackBatchBody) else [self.root]
