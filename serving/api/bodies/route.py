"""The bodies of requests to route.

They are read leniently where OpenAI's chat completions vary (unknown fields are ignored, so that a body made for an LLM can be
sent as it is) and strictly in the fields that are used. An unknown field that is spelt nearly like one that is used is told.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from serving.api.bodies.chat import Messages, ResponseFormat, Tools, demands_of, may_resemble, resembling
from serving.api.bodies.explain import SHOWN, Shown
from serving.api.bodies.fields import MOST_IN_A_BATCH, Name, refused
from serving.api.bodies.openrouter import AnyProvider, Asked, Models, Plugins
from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Objective
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy, least

# Of so many unknown fields, none of them longer, the name is looked at; and of as many that may be about privacy.
_MOST_LOOKED_AT, _LONGEST_LOOKED_AT = 32, 40
# Where a slip would keep or send what may not be kept or sent, it is refused and not only told.
_OF_PRIVACY = frozenset({"privacy", "zero_retention", "self_hosted", "no_training", "regions", "zdr", "provider"})
_OF_OTHERS = frozenset({"region"})  # what they may be instead

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

# A tag that a client makes up: it is stored, and told apart from others, with every decision.
Label = Annotated[str, Field(max_length=256)]
Globs = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=64, fail_fast=True)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)]


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
    if value is not None and value != "allow":
        raise PydanticCustomError(
            "misplaced", "this goes into privacy: {...}, or where OpenRouter has it into provider: {...}"
        )


# In no schema: a demand on privacy that stands beside `privacy`, not in it.
InPrivacy = SkipJsonSchema[Annotated[Any, AfterValidator(_in_privacy)]]


class RouteBody(Shown):
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
    data_collection: InPrivacy = None
    models: Models | None = Field(
        default=None,
        description="OpenRouter's: only these models, by name or alias, and in this order as fallbacks. Empty: all.",
    )
    provider: AnyProvider = Field(
        default=None, description="OpenRouter's: what is asked of providers. A text is ignored."
    )
    plugins: Plugins | None = Field(
        default=None, description="OpenRouter's: of these `auto-router` is read, others are ignored."
    )
    share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="With probability 1 less this, or less ROUTER_SHARE if that is lower, the decision is held back and "
        "`otherwise` is the answer. Null: 1. 0 decides, records and changes nothing.",
    )
    otherwise: Name | None = Field(
        default=None,
        description="Who answers where the decision is held back, a candidate or not. Null: the reference candidate.",
    )
    otherwise_candidate: Name | None = Field(
        default=None,
        description="The candidate behind an `otherwise` that is none itself, as a model group's name is: the decision then "
        "says that candidate, and what is known of it. Of no account where it is no candidate.",
    )

    store_prompt: bool | None = Field(
        default=None,
        description="False: the decision is stored without text, as under ROUTER_STORE_PROMPTS=false, and with a hash of "
        "`session_id`. It rules no candidate out. Null: true.",
    )

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            arrived = "neither" if self.prompt is None else "both"
            misspelt = "".join(f" ({one})" for one in self.misspelt)
            message = "give exactly one of prompt and messages; {arrived} arrived{misspelt}"
            raise refused("prompt", "one_of", message, arrived=arrived, misspelt=misspelt)
        for name, meant in self.slips:
            asked = (self.__pydantic_extra__ or {})[name]
            demanded = asked is not None and asked is not False and name not in _OF_OTHERS
            if meant in _OF_PRIVACY and (any(demands_of(asked)) if meant == "provider" else demanded):
                raise refused(name, "misspelt", "nothing reads this; did you mean {meant}?", meant=meant)
        if self.quality_target is not None and self.cost_quality is not None:
            message = "give at most one of quality_target and cost_quality; both arrived"
            raise refused("cost_quality", "one_of", message)
        if self.provider is not None or self.plugins is not None:
            self._openrouter.check()
            self._openrouter.tradeoff(
                name for name in ("quality_target", "cost_quality") if getattr(self, name) is not None
            )
        return self

    @property
    def _openrouter(self) -> Asked:
        return Asked(self.models, (self.__pydantic_extra__ or {}).get("model"), self.provider, self.plugins)

    @cached_property
    def slips(self) -> list[tuple[str, str]]:
        """Unknown fields, a few of them, each with the field that it is spelt nearly like."""
        unknown = [name for name in self.__pydantic_extra__ or () if len(name) <= _LONGEST_LOOKED_AT]
        private = (name for name in unknown if may_resemble(name, _OF_PRIVACY))
        names = dict.fromkeys((*unknown[:_MOST_LOOKED_AT], *islice(private, _MOST_LOOKED_AT)))
        told = [(name, resembling(name, _FIELDS)) for name in names]
        return [(name, meant) for name, meant in told if meant]

    @property
    def misspelt(self) -> tuple[str, ...]:
        """What is said of each of them: nothing reads it."""
        slips = self.slips if self.provider is None else [*self.slips, *self.provider.slips]
        return tuple(f"{name}: did you mean {meant}?" for name, meant in slips)

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
        schema = {name: one for name, one in (self.response_format or {}).items() if name != "type"} or None
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
        privacy, provider = self.privacy or _NO_DEMANDS, self.provider
        kept, trained = (False, False) if provider is None else demands_of(provider.model_extra)
        policy = Policy(
            allow=(tuple(self.allow),) if self.allow else (),
            deny=tuple(self.deny or ()),
            requires=frozenset(self.requires or ()),
            zero_retention=privacy.zero_retention or kept,
            self_hosted=privacy.self_hosted,
            no_training=privacy.no_training or trained,
            regions=(frozenset(privacy.regions),) if privacy.regions else (),
            max_cost_usd=self.max_cost_usd,
            max_latency_ms=self.max_latency_ms,
            quality_target=self.quality_target,
            cost_quality=self.cost_quality,
            objective=self.objective,
            share=1.0 if self.share is None else self.share,
            otherwise=self.otherwise,
            store_prompt=self.store_prompt is not False,
            otherwise_candidate=self.otherwise_candidate,
        )
        if self.models is None and provider is None and self.plugins is None:
            return policy
        asked = self._openrouter
        return replace(
            policy,
            max_latency_ms=least(self.max_latency_ms, None if provider is None else provider.most_latency_ms),
            cost_quality=self.cost_quality if self.cost_quality is not None else asked.tradeoff(()),
            endpoints=asked.endpoints(),
            preferences=asked.preferences(),
        )


_FIELDS = tuple(RouteBody.model_fields)


class BatchBody(BaseModel):
    """Requests to route together; each carries its own policy, and a field of one that stands beside them is refused."""

    model_config = ConfigDict(
        strict=True,
        hide_input_in_errors=True,
        extra="allow",
        json_schema_extra={"examples": [{"requests": [_PROMPT, _CHAT]}]},
    )

    requests: list[RouteBody] = Field(
        min_length=1,
        max_length=MOST_IN_A_BATCH,
        fail_fast=True,
        description="At least 1; the most is a setting (256 by default).",
    )

    @model_validator(mode="after")
    def _nothing_beside_them(self) -> Self:
        """What is demanded of all of them would be ignored like any unknown field."""
        for field, value in (self.__pydantic_extra__ or {}).items():
            if field in _FIELDS and value is not None and value is not False:
                if field in SHOWN:
                    raise _shown_alone(field)
                raise refused(field, "misplaced", "this goes into each of the requests, where alone it is looked for")
        for place, one in enumerate(self.requests):
            if one.shows:
                raise _shown_alone(f"requests.{place}.{next(name for name in SHOWN if getattr(one, name))}")
        return self


def _shown_alone(field: str) -> ValidationError:
    return refused(field, "misplaced", "a batch has no place for this: send the request by itself, to /v1/route")
