"""LiteLLM_SpendLogs, the table in which LiteLLM's proxy keeps its calls: exported rows, or the database itself.

A row says what a StandardLoggingPayload says under other names, and is read as one (see `payload`). The proxy
stores prompts only with `store_prompts_in_spend_logs`, and then as the request's body in `proxy_server_request`; older
ones in `messages`. Its `session_id` is the payload's trace. A database is read through a cursor on the server, a
partition at a time, in a transaction that cannot write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from training.logs.cells import blank, fields, first_of, parsed
from training.logs.io import database, files
from training.logs.io.files import Records
from training.logs.io.partitions import checked, outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import Outcomes
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.sources.litellm import payload

NAME = "litellm-spend"
EXPECTS = "rows of LiteLLM_SpendLogs (request_id, call_type, model, spend, startTime, proxy_server_request, …)"
COMPANIONS: frozenset[str] = frozenset()
SCHEMES = database.SCHEMES
TABLE = "LiteLLM_SpendLogs"
SETTING = "general_settings: store_prompts_in_spend_logs: true"

MARKS = frozenset({"request_id", "call_type", "model", "spend", "startTime"})
_NESTED = ("metadata", "request_tags", "messages", "proxy_server_request")
_PLAIN = (
    *sorted(MARKS), "session_id", "status", "model_group", "prompt_tokens", "completion_tokens", "endTime",
    "request_duration_ms", "cache_hit", "model_id",
)  # fmt: skip
_SAME = (
    "call_type", "model", "model_group", "prompt_tokens", "completion_tokens", "startTime", "endTime",
    "request_duration_ms", "cache_hit", "request_tags", "model_id",
)  # fmt: skip


def recognises(path: LogPath) -> bool:
    """Whether the head of the file has the table's columns."""
    return files.columns(path) >= MARKS


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one export; raises OutcomeError when it cannot be opened or when no prompt was stored."""
    wanted = frozenset(_PLAIN) | frozenset(_nested(options))
    parts = outcomes_of(path, format=NAME, convert=partial(convert, parameters=options.parameters), wanted=wanted)
    return payload.require_prompts(parts, str(path), SETTING)


def recognises_url(url: str) -> bool:
    """Whether the database has the table; raises OutcomeError when it cannot be reached."""
    return database.has_table(url, TABLE)


def read_url(url: str, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read the table of a database; raises OutcomeError when that fails or when no prompt was stored."""
    batches = database.rows(
        url, TABLE, plain=_PLAIN, nested=_nested(options), required=MARKS, order=("startTime", "request_id")
    )
    source = f"{database.shown(url)} {TABLE}"
    parts = checked(batches, source=source, format=NAME, convert=partial(convert, parameters=options.parameters))
    return payload.require_prompts(parts, source, SETTING)


def _nested(options: ImportOptions) -> tuple[str, ...]:
    return (*_NESTED, "response") if options.answers else _NESTED


def convert(records: Records, *, parameters: bool = False) -> Records:
    """One partition of rows under the outcome table's names, with the `parameters` of their requests' bodies or without."""
    payloads = [_payload(row) for _, row in records.numbered()]
    if parameters:
        bodies = (row.get("proxy_server_request") for _, row in records.numbered())
        payloads = [{**one, "model_parameters": body} for one, body in zip(payloads, bodies, strict=True)]
    table = pd.DataFrame(payloads, dtype=object) if payloads else pd.DataFrame()
    return payload.convert(records._replace(table=table), SETTING)


def _payload(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = fields(row.get("metadata"))
    return {
        **{name: row.get(name) for name in _SAME},
        "id": row.get("request_id"),
        "trace_id": row.get("session_id"),
        "response_cost": row.get("spend"),
        "status": first_of(row.get("status"), metadata.get("status")),
        "metadata": metadata,
        "error_information": metadata.get("error_information"),
        "messages": _prompt(row),
        "response": row.get("response"),
    }


def _prompt(row: Mapping[str, Any]) -> Any:
    """The prompt of the request's body, else that of `messages`; {} where the proxy stored neither."""
    body = fields(row.get("proxy_server_request"))
    turns = first_of(*(body.get(name) for name in ("messages", "input", "prompt")))
    if turns is None:
        stored = parsed(row.get("messages"))
        return {} if blank(stored) else stored
    system = first_of(*(body.get(name) for name in ("system", "instructions")))
    if system is None:
        return turns
    turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    return [{"role": "system", "content": system}, *turns] if isinstance(turns, list) else turns
