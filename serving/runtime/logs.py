"""Log lines as JSON: time, level, logger, message, fields, and a traceback where there is one. Never what a client sent."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime

import orjson


class JsonLines(logging.Formatter):
    """One JSON object a line. `extra={"fields": {...}}` of a log call adds members to it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = traceback_of(record.exc_info[1])
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def traceback_of(error: BaseException) -> str:
    """The traceback of an error and of what caused it, without the messages that libraries gave them.

    A tokenizer or a database may quote the text that it stumbled over. Our own errors do not, and the system's name files.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = "" if cause is None else traceback_of(cause) + "\nThen:\n\n"
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    own = kind.__module__.partition(".")[0] == "serving" or isinstance(error, OSError)
    return before + "".join(traceback.format_tb(error.__traceback__)) + (f"{name}: {error}" if own else name)


def configure_logging(level: str) -> None:
    """Every logger of the process writes JSON lines to stderr, uvicorn's too; its lines of requests have no query string."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    access = logging.getLogger("uvicorn.access")
    if _without_query not in access.filters:
        access.addFilter(_without_query)


def _without_query(record: logging.LogRecord) -> bool:
    """Takes what stands behind a "?" out of the arguments of uvicorn's line: (client, method, path, version, status)."""
    if isinstance(record.args, tuple):
        record.args = tuple(one.partition("?")[0] if isinstance(one, str) else one for one in record.args)
    return True
