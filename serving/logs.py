"""Log lines as JSON: time, level, logger, message, and a traceback where there is one. Never what a client sent."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime

import orjson


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(line).decode()


def configure_logging(level: str) -> None:
    """Every logger of the process writes JSON lines to stderr, uvicorn's too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
