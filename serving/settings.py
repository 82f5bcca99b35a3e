"""The settings of a serving process. This is the only place that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LogLevel = Literal["critical", "error", "warning", "info", "debug"]


class Settings(BaseSettings):
    """Each field is read from `ROUTER_<FIELD>`, for example `ROUTER_PORT=9000`."""

    model_config = SettingsConfigDict(env_prefix="ROUTER_", frozen=True)

    bundle: Path = Field(default=Path("models/current"), description="Folder of the bundle to serve.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=1, le=65_535, description="Port to listen on.")
    threads: int = Field(default=1, ge=1, description="Threads of one forward pass; more processes scale better.")
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1, description="A longer request body is refused (413).")
    max_batch: int = Field(default=256, ge=1, description="Most requests in one batch.")
    log_level: LogLevel = Field(default="info", description="From `debug` on, every request is logged by its path.")
