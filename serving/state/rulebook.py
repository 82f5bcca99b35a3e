"""The server's own rules, `policies.toml`: what holds for every request, for a workflow, and for an API key.

They only tighten what a request asks (`Policy.tightened`). Keys are kept as SHA-256 hashes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from limits import RateLimitItem, parse, parse_many
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Objective
from serving.bundle.toml_file import TomlError, no_such_field, read_toml
from serving.decide.globs import matches
from serving.decide.policy import Policy

Glob = Annotated[str, Field(min_length=1, max_length=256)]


class RulesError(ValueError):
    """A rule file that cannot be used; the message names the file and the field."""


class ForbiddenWorkflowError(ValueError):
    """A request is tagged with a workflow that its API key is not for."""

    def __init__(self, key: str, workflows: Sequence[str]) -> None:
        super().__init__(f"The key {key} is for the workflows {', '.join(workflows)}; the request is tagged otherwise.")


class RemovedKeyError(LookupError):
    """A request whose API key the rules have no more: it was taken away while the request came in."""

    def __init__(self, key: str) -> None:
        super().__init__(f"The key {key} is not in the rules any more.")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# Amounts are kept as whole numbers of 64 bits, in units far below a cent.
_MOST_USD = 1e9


class Budget(_Section):
    """USD per UTC day and per calendar month, and what happens when one is spent.

    With `pacing` the knob is tightened on the way, so that the budget lasts its period.
    """

    day_usd: float | None = Field(default=None, ge=0, le=_MOST_USD)
    month_usd: float | None = Field(default=None, ge=0, le=_MOST_USD)
    at_limit: Literal["cheapest", "reject", "warn"] = "cheapest"
    pacing: bool = False

    @model_validator(mode="after")
    def _paces_something(self) -> Self:
        if self.pacing and self.day_usd is None and self.month_usd is None:
            raise ValueError("pacing is true and there is nothing to pace; expected day_usd or month_usd")
        return self


class Rules(_Section):
    """What holds for one scope; the fields are those of `Policy`, and of a request."""

    allow: tuple[Glob, ...] = ()
    deny: tuple[Glob, ...] = ()
    requires: frozenset[Capability] = frozenset()
    zero_retention: bool = False
    self_hosted: bool = False
    no_training: bool = False
    regions: frozenset[str] = frozenset()
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_latency_ms: float | None = Field(default=None, gt=0)
    quality_target: float | None = Field(default=None, gt=0, le=1)
    cost_quality: float | None = Field(default=None, ge=0, le=10)
    objective: Objective | None = None
    abstain_below: float = Field(default=0.0, ge=0, le=1)
    budget: Budget = Budget()
    # Who answers when no candidate is eligible; without one the request is refused.
    no_candidate: str | None = None

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        if self.quality_target is not None and self.cost_quality is not None:
            raise ValueError("give at most one of quality_target and cost_quality; both arrived")
        return self

    @cached_property
    def tightening(self) -> Policy | None:
        """The policy, None where it asks for nothing; made once, for it is asked for with every request."""
        asked = self.policy()
        return None if asked == Policy() else asked

    def policy(self) -> Policy:
        return Policy(
            allow=(self.allow,) if self.allow else (),
            deny=self.deny,
            requires=self.requires,
            zero_retention=self.zero_retention,
            self_hosted=self.self_hosted,
            no_training=self.no_training,
            regions=(self.regions,) if self.regions else (),
            max_cost_usd=self.max_cost_usd,
            max_latency_ms=self.max_latency_ms,
            quality_target=self.quality_target,
            cost_quality=self.cost_quality,
            objective=self.objective,
            abstain_below=self.abstain_below,
        )


class Key(Rules):
    """An API key: the SHA-256 of its text in hex, how often it may be used ("100/second"), and whether it may administer.

    With `workflows` it is for these alone, and a request that names none of them is under the rules of all.
    """

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    rate: str | None = None
    admin: bool = False
    workflows: tuple[Annotated[str, Field(max_length=256)], ...] = ()

    @field_validator("rate")
    @classmethod
    def _is_a_rate(cls, rate: str | None) -> str | None:
        if rate is not None and (parse(rate).amount < 1 or len(parse_many(rate)) > 1):
            raise ValueError('expected one rate of at least 1, as "100/second"; leave out a key that may not be used')
        return rate

    @property
    def limit(self) -> RateLimitItem | None:
        return None if self.rate is None else parse(self.rate)


# A draw has 53 bits: of a smaller share the frequency would not be the one that is written down.
_LEAST_SHARE = 1e-6


class AlsoRules(_Section):
    """Of which share of decisions another candidate is asked too, and how many USD that may cost in a UTC day.

    `candidates` are globs over those who may be asked, `workflows` the tags of requests that it is done for; empty: all.
    """

    share: float = Field(default=0.0, ge=0, le=1)
    daily_usd: float | None = Field(default=None, ge=0, le=_MOST_USD)
    candidates: tuple[Glob, ...] = ()
    workflows: tuple[Annotated[str, Field(max_length=256)], ...] = ()

    @field_validator("share", mode="before")
    @classmethod
    def _is_a_number(cls, share: object) -> object:
        if isinstance(share, bool):
            raise ValueError("true or false arrived; expected a number from 0 to 1")
        return share

    @model_validator(mode="after")
    def _capped(self) -> Self:
        if 0 < self.share < _LEAST_SHARE:
            raise ValueError(f"share is too small to be drawn; expected 0, or at least {_LEAST_SHARE:f}")
        if self.share > 0 and self.daily_usd is None:
            raise ValueError(
                "share is above 0 and nothing caps what that costs; expected daily_usd, the most in a UTC day"
            )
        return self


class RuleBook(_Section):
    """All rules. With any key, routing, feedback, budgets and reloading need one."""

    default: Rules = Rules()
    workflows: Mapping[str, Rules] = {}
    keys: Mapping[str, Key] = {}
    also: AlsoRules = AlsoRules()

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        names = {key.sha256: name for name, key in self.keys.items()}
        for name, key in self.keys.items():
            if names[key.sha256] != name:
                raise ValueError(
                    f"keys.{name} and keys.{names[key.sha256]} have the same sha256; expected one name a key"
                )
        return self

    def scopes(self, key: str | None, workflow: str | None) -> list[tuple[str, Rules]]:
        """The scopes that a request is in, with their rules; raises ForbiddenWorkflowError."""
        bound = self.keys[key].workflows if key is not None else ()
        if key is not None and bound and workflow is not None and workflow not in bound:
            raise ForbiddenWorkflowError(key, bound)
        found: list[tuple[str, Rules]] = [("default", self.default)]
        if workflow is not None:
            if workflow in self.workflows:
                found.append((f"workflow:{workflow}", self.workflows[workflow]))
        elif bound:  # leaving the tag away is no way around a workflow's rules
            found.extend((f"workflow:{tag}", rules) for tag, rules in self.workflows.items() if tag in bound)
        if key is not None:
            found.append((f"key:{key}", self.keys[key]))
        return found

    def check_against(self, candidates: Sequence[str]) -> None:
        """Raises RulesError where a name or a glob of candidates can only be meant for another bundle, or is misspelt."""
        has = f"the bundle has {', '.join(candidates)}"
        for scope, rules in self.every_scope():
            if rules.no_candidate is not None and rules.no_candidate not in candidates:
                raise RulesError(f"{scope}: no_candidate is {rules.no_candidate!r}; {has}")
            if rules.allow and not any(matches(name, glob) for name in candidates for glob in rules.allow):
                raise RulesError(f"{scope}: allow = {list(rules.allow)} matches no candidate; {has}")
        asked = self.also.candidates
        if asked and not any(matches(name, glob) for name in candidates for glob in asked):
            raise RulesError(f"also: candidates = {list(asked)} matches no candidate; {has}")

    def every_scope(self) -> list[tuple[str, Rules]]:
        return [
            ("default", self.default),
            *((f"workflow:{name}", rules) for name, rules in self.workflows.items()),
            *((f"key:{name}", rules) for name, rules in self.keys.items()),
        ]

    def key_of(self, secret: str) -> str | None:
        """The name of the key with this text, None if there is none; takes as long whichever it is."""
        digest = digest_of(secret)
        found = None
        for name, key in self.keys.items():
            if hmac.compare_digest(key.sha256, digest):
                found = name
        return found


def digest_of(secret: str) -> str:
    """What `policies.toml` holds of an API key. Keys are long and random, so a plain hash cannot be reversed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def load_rules(path: Path | None) -> RuleBook:
    """Reads a rule file, or gives no rules for None; raises RulesError."""
    if path is None:
        return RuleBook()
    try:
        document = read_toml(path, "a rule file, see docs/serving.md")
    except TomlError as error:
        raise RulesError(str(error)) from None
    try:
        return RuleBook.model_validate(document)
    except ValidationError as error:
        wrong = sorted(
            error.errors(include_url=False, include_input=False), key=lambda one: one["type"] != "extra_forbidden"
        )
        told = [_said(one) for one in wrong[:_MOST_TOLD]]
        told += [f"and {len(wrong) - _MOST_TOLD} more"] if len(wrong) > _MOST_TOLD else []
        raise RulesError("\n".join(f"{path}: {one}" for one in told)) from None


# Of a rule file's mistakes so many are told at once.
_MOST_TOLD = 20
# How keys begin: ours, and those of the usual providers.
_KEY = re.compile(r"(or|sk|pk|key)-", re.IGNORECASE)


def _said(error: ErrorDetails) -> str:
    """What is wrong and where. No value is told: it may be a key in clear."""
    where, what = ".".join(map(_name, error["loc"])), error["msg"]
    if error["type"] == "extra_forbidden":
        what = no_such_field(_name(error["loc"][-1]), _section(error["loc"][:-1]).model_fields)
    elif error["loc"][-1:] == ("rate",):
        what = 'expected one rate of at least 1, as "100/second"; leave out a key that may not be used'
    elif error["loc"][-1:] == ("sha256",):
        made = "router-serve new-key NAME makes both"
        what = f"expected the SHA-256 of the key, 64 digits of 0-9 and a-f, never the key itself: {made}"
    return f"{where}: {what}" if where else what


def _name(part: int | str) -> str:
    """A name of the file as it is told: nothing that a terminal acts on, no text, no key that stands for a name."""
    text = str(part)
    plain = len(text) <= 40 and text.isprintable() and not _KEY.match(text)
    return text if plain else f"(a name of {len(text)} characters)"


def _section(place: Sequence[int | str]) -> type[BaseModel]:
    """What stands at a place in the rule file."""
    if place[-1:] == ("budget",) and len(place) == (2 if place[0] == "default" else 3):
        return Budget
    sections: dict[str, type[BaseModel]] = {"default": Rules, "workflows": Rules, "keys": Key, "also": AlsoRules}
    return sections[str(place[0])] if place else RuleBook
