"""What is known about a candidate: its price, its limits and what it can do.

One definition for both sides: training reads it from `candidates.toml`, a bundle carries it in its manifest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Capability(StrEnum):
    """What a request may take of a candidate; each is a field of `Candidate`."""

    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"
    AUDIO = "audio"
    PDF = "pdf"
    VIDEO = "video"


class Candidate(BaseModel):
    """One LLM that traffic can be sent to.

    Prices are USD per million tokens; None means that the price is not known, and the expected cost then comes
    from logged costs alone. `context_window` is in tokens, prompt and answer together. `aliases` are the other names under
    which logs know the same LLM: with a provider's prefix, as a dated snapshot, as a deployment.

    A provider caches the beginning of a prompt that has at least `cache_minimum_tokens`, for `cache_seconds` after it was
    last used; what is read from there costs `cache_read_usd_per_mtok`, what is written to it `cache_write_usd_per_mtok`
    instead of the input price.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    provider: str | None = None
    input_usd_per_mtok: float | None = Field(default=None, ge=0)
    output_usd_per_mtok: float | None = Field(default=None, ge=0)
    cache_read_usd_per_mtok: float | None = Field(default=None, ge=0)
    cache_write_usd_per_mtok: float | None = Field(default=None, ge=0)
    cache_minimum_tokens: int | None = Field(default=None, ge=0)
    cache_seconds: float | None = Field(default=None, gt=0)
    context_window: int | None = Field(default=None, gt=0)
    max_output_tokens: int | None = Field(default=None, gt=0)
    tools: bool | None = None
    vision: bool | None = None
    json_schema: bool | None = None
    audio: bool | None = None
    pdf: bool | None = None
    video: bool | None = None
    hosting: Literal["self", "external"] | None = None
    regions: tuple[str, ...] = ()
    zero_retention: bool | None = None
    trains_on_data: bool | None = None
    source: str | None = None

    @property
    def priced(self) -> bool:
        """Whether cost can be computed as tokens times price."""
        return self.input_usd_per_mtok is not None and self.output_usd_per_mtok is not None

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Cost of one call in USD; raises ValueError when the candidate has no price."""
        if self.input_usd_per_mtok is None or self.output_usd_per_mtok is None:
            raise ValueError(f"candidate {self.name!r} has no price in the catalogue (candidates.toml)")
        return (input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok) / 1e6
