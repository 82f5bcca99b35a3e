"""What a call to an LLM costs: as it was given, or by the price map of LiteLLM."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.errors import TrainingError

Cost = Callable[[int, int], float]  # input and output tokens -> USD


class GraderError(TrainingError):
    """A grader that cannot be asked: its price or its provider is unknown, or its provider refuses every call."""


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float

    def __call__(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok) / 1e6


def parse_price(text: str, option: str = "--judge-price") -> Price:
    """`INPUT:OUTPUT` in USD per million tokens, given by an option; raises GraderError."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or not all(0 <= number < math.inf for number in numbers):
        raise GraderError(f"{option} {text!r}: expected INPUT:OUTPUT in USD per million tokens, as in 0.15:0.60")
    return Price(*numbers)


def quiet_litellm() -> Any:
    """LiteLLM, imported so that it asks nobody for a newer price map and tells nobody what it does."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    litellm: Any = importlib.import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    return litellm


def listed_price(litellm: Any, model: str) -> Cost:
    """What a call costs by LiteLLM's price map; raises GraderError when that does not say."""
    try:
        name, provider, *_ = litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError as error:
        raise GraderError(
            f"--judge {model!r}: its provider is not known; expected PROVIDER/MODEL as LiteLLM has it"
        ) from error
    listed = (litellm.model_cost.get(key, {}) for key in (model, name, f"{provider}/{name}"))
    if not any(entry.get("input_cost_per_token") and entry.get("output_cost_per_token") for entry in listed):
        raise GraderError(
            f"--judge {model!r}: LiteLLM's price map has no price for it, so the budget could not be kept. "
            "Give --judge-price INPUT:OUTPUT in USD per million tokens (0:0 if it is free)."
        )

    def cost(input_tokens: int, output_tokens: int) -> float:
        return float(
            sum(litellm.cost_per_token(model=model, prompt_tokens=input_tokens, completion_tokens=output_tokens))
        )

    return cost


def require_grader(litellm: Any, model: str, price: Price | None) -> None:
    """Raises GraderError where a grader could not be asked: before anything is spent on what it is to grade."""
    if price is None:
        listed_price(litellm, model)
    missing = litellm.validate_environment(model)["missing_keys"]
    if missing:
        raise GraderError(
            f"--judge {model!r}: {', '.join(missing)} is not in the environment. Set it (for a server of your own any text "
            "will do, with its address in OPENAI_API_BASE for openai/NAME)."
        )
