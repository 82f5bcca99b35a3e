"""OpenAI-shaped requests with their responses, and the Batch API's output files with their input files.

A pair is one JSON object per line: `request` and `response` bodies (or `input` and `output`), or the request's fields
beside `response` or `choices`. The outcome table's own names beside them (quality, latency_ms, session_id, workflow,
...) are taken over. A batch's answers are in its output and error files; its prompts are in its input file, which lies in the
same folder or is given beside them. An error is an outcome, but a request that the batch never ran is none.

What makes one request: pairs that say the same `request_id`, and answers with the same custom_id to the same messages
(custom ids start again in every batch). Tries that only share their text are grouped when the data is split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from training.logs.cells import fields, first_of, json_object, shown
from training.logs.io import files
from training.logs.io.files import Row
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import COLUMNS, OutcomeError, Outcomes
from training.logs.sources import chat_bodies
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.sources.tries import Signature, Skip, beside, gather, remembered, signature

NAME = "openai"
EXPECTS = (
    "one object per line with request and response bodies (chat completions), or a Batch API output file "
    "(custom_id, response, error) beside its input file (custom_id, method, url, body)"
)
COMPANIONS: frozenset[str] = frozenset()

_BATCH_INPUT = frozenset({"custom_id", "url", "body"})
# Fields by which the records of gateways and tracing tools differ from bare pairs.
_OTHERS = frozenset({"call_type", "spend", "response_cost", "usage_details", "usageDetails", "total_cost", "totalCost"})
_OWN = tuple(name for name in COLUMNS if name not in ("prompt", "messages"))
_ASKED = ("messages", "prompt", "input")
_NOT_RUN = ("batch_expired", "batch_cancelled")
_PAIR = "a request and its response"


def recognises(path: LogPath) -> bool:
    """Whether the head holds pairs (of any service but OpenRouter) or answers of a batch."""
    first = _first(path)
    return first is not None and (is_answer(first) or not is_openrouter(first))


@remembered
def accompanies(path: LogPath) -> bool:
    """Whether the file holds the requests of a batch."""
    return any(record.keys() >= _BATCH_INPUT for record in files.head_objects(path))


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file of pairs or of a batch's answers; raises OutcomeError when the batch's requests are missing."""
    if accompanies(path):
        raise OutcomeError(
            f"{path}: holds the requests of a batch, not its answers; give the output file as well, or the folder"
        )
    first = _first(path)
    if first is not None and is_answer(first):
        return _read_answers(path, options)
    stem = files.stem(path)
    return outcomes_of(
        path,
        format=NAME,
        convert=lambda records: gather(records, lambda pair, row: [outcome_of(pair, row, stem, options)]),
    )


def is_pair(record: Row) -> bool:
    """Whether a record is a request with its response, in one of the shapes that are read."""
    if record.keys() & _OTHERS or _is_outcome(record):
        return False
    for asked, answered in (("request", "response"), ("input", "output")):
        if asked in record and answered in record:
            request, response = json_object(record[asked]), chat_bodies.body(record[answered])
            return _asks(request) and (asked == "request" or _answers(response))
    if not record.keys() & {"messages", "prompt"}:
        return False
    return (
        "choices" in record
        or _answers(chat_bodies.body(record.get("response")))
        or ("model" in record and isinstance(record.get("response"), str))
    )


def is_openrouter(record: Row) -> bool:
    """Whether a pair was answered by OpenRouter, whose generations have ids of their own kind."""
    identifier = first_of(response_body(record).get("id"), record.get("id"))
    return isinstance(identifier, str) and identifier.startswith("gen-")


def is_answer(record: Row) -> bool:
    """Whether a record is a line of a batch's output or error file."""
    return "custom_id" in record and ("response" in record or "error" in record) and not is_pair(record)


def response_body(record: Row) -> Row:
    """The response body of a pair; {} where there is none. A record with `choices` is its own response."""
    if "choices" in record:
        return record
    response = chat_bodies.body(first_of(record.get("response"), record.get("output")))
    if response is not None and "body" in response:  # logged with its HTTP status around it
        inner = fields(response["body"])
        return inner if _status_code(response) < 400 else {**inner, "error": inner.get("error") or "HTTP status"}
    return response or {}


def outcome_of(record: Row, row: int, stem: str, options: ImportOptions) -> Row | Skip:
    """The outcome of one pair; `row` and the file's `stem` make an id for a pair without any."""
    flat = first_of(record.get("request"), record.get("input")) is None or "messages" in record
    request = record if flat else json_object(first_of(record.get("request"), record.get("input")))
    if request is None:
        return Skip("request is not an object", type(record.get("request")).__name__, "a request body")
    response = response_body(record)
    failed = first_of(record.get("error")) is not None or _status_code(record) >= 400
    text = record.get("response") if isinstance(record.get("response"), str) else None
    if not response and not failed and text is None:
        return Skip("no response", "", _PAIR)
    if skip := chat_bodies.not_a_chat(request, response, record.get("url")):
        return skip
    cells = _cells(record, request, response, failed=failed)
    identifier = first_of(*(record.get(name) for name in ("request_id", "custom_id", "id")), response.get("id"))
    cells["request_id"] = first_of(identifier, f"{stem}-{row}")
    if options.answers:
        cells["answer"] = first_of(chat_bodies.answer_text(response), None if response else text)
    if options.parameters:
        cells["parameters"] = chat_bodies.parameters_text(request)
    return cells


def _asked_for(request: Row) -> Any:
    """The model of a request; None where it leaves the choice to a gateway, as "auto" or "openrouter/auto" does."""
    model = request.get("model")
    return None if isinstance(model, str) and model.rpartition("/")[2].lower() == "auto" else model


def _cells(record: Row, request: Row, response: Row, *, failed: bool) -> Row:
    answered = chat_bodies.answer_cells(response)
    own = {name: record[name] for name in _OWN if first_of(record.get(name)) is not None}
    metadata = fields(request.get("metadata"))
    known = {
        # What was asked for is what a router can choose again; the answer names a dated snapshot of it. Who asked for any
        # ("auto") learns from the answer who it was.
        "candidate": first_of(_asked_for(request), answered["candidate"], request.get("model")),
        "session_id": first_of(request.get("session_id"), metadata.get("session_id")),
        "workflow": metadata.get("workflow"),
        "trace_id": record.get("trace_id"),
    }
    cells = {**answered, **known, **own, **chat_bodies.prompt_cells(request)}
    if own.get("status") not in (None, "success", "error"):  # a status of HTTP or of the client, not of an outcome
        cells["status"] = answered["status"]
    return {**cells, "status": "error"} if failed else cells


def _first(path: LogPath) -> Row | None:
    """The first record of the head that is a pair or a batch's answer; it says what the file holds."""
    return next((record for record in files.head_objects(path) if is_pair(record) or is_answer(record)), None)


def _is_outcome(record: Row) -> bool:
    """Whether the record has the outcome table's required columns: then it is read as what it is."""
    return "request_id" in record and bool(
        record.keys() & {"candidate", "model"} and record.keys() & {"prompt", "messages"}
    )


def _asks(request: Row | None) -> bool:
    return request is not None and any(name in request for name in _ASKED)


def _answers(response: Row | None) -> bool:
    return response is not None and bool(response.keys() & {"choices", "output", "error"})


def _status_code(record: Row) -> int:
    code = record.get("status_code")
    return code if isinstance(code, int) else 0


def _read_answers(path: LogPath, options: ImportOptions) -> Iterator[Outcomes]:
    inputs = list(dict.fromkeys([*beside(path, accompanies), *options.batch_requests]))
    if not inputs:
        raise OutcomeError(
            f"{path}: holds the answers of a batch, which have no prompts; give the batch's input file "
            "(custom_id, method, url, body) as well, or put it into the same folder"
        )
    requests = _requests(signature(inputs))

    def convert(records: files.Records) -> files.Records:
        return gather(records, lambda answer, _: [_answered(answer, requests, options)])

    return outcomes_of(path, format=NAME, convert=convert)


@lru_cache(maxsize=1)  # a batch has an output and an error file, and both need them
def _requests(inputs: Signature) -> dict[str, list[Row]]:
    """The requests of all input files by custom_id; different ones under one id are kept apart."""
    found: dict[str, list[Row]] = {}
    for name, _, _ in inputs:
        for records in files.partitions(name, _BATCH_INPUT):
            for _, line in records.numbered():
                _add(found, line)
    return found


def _add(found: dict[str, list[Row]], line: Row) -> None:
    request, custom_id = json_object(line.get("body")), line.get("custom_id")
    if request is None or not isinstance(custom_id, str):
        return
    metadata = fields(request.get("metadata"))
    kept = {
        "url": line.get("url"),
        "model": request.get("model"),
        "session_id": metadata.get("session_id"),
        "workflow": metadata.get("workflow"),
        "parameters": chat_bodies.parameters_text(request),
        **chat_bodies.prompt_cells(request),
    }
    known = found.setdefault(custom_id, [])
    if kept not in known:
        known.append(kept)


def _answered(line: Row, requests: dict[str, list[Row]], options: ImportOptions) -> Row | Skip:
    """The outcome of one line of an output or error file."""
    envelope, error = fields(line.get("response")), fields(line.get("error"))
    if error.get("code") in _NOT_RUN:
        return Skip("request was not run", str(error["code"]), "an answer or an error of the LLM")
    response = fields(envelope.get("body"))
    if not envelope and not error:
        return Skip("no response", "", "an answer or an error")
    request = _match(requests.get(str(line.get("custom_id")), []), response.get("model"))
    if isinstance(request, Skip):
        return request
    if skip := chat_bodies.not_a_chat(request, response, request["url"]):
        return skip
    cells = _cells({}, {}, response, failed=bool(error) or _status_code(envelope) >= 400)
    cells |= {name: request[name] for name in ("messages", "prompt", "session_id", "workflow")}
    cells["candidate"] = first_of(request["model"], response.get("model"))
    cells["request_id"] = f"{line.get('custom_id')}-{_digest(request)}"
    if options.answers:
        cells["answer"] = chat_bodies.answer_text(response)
    if options.parameters:
        cells["parameters"] = request["parameters"]
    return cells


def _match(requests: Iterable[Row], model: Any) -> Row | Skip:
    """The one request that an answer is to; several files may use a custom_id, and then the model has to tell."""
    found = list(requests)
    fitting = found if len(found) == 1 else [request for request in found if _is_snapshot(model, request["model"])]
    if len(fitting) == 1:
        return fitting[0]
    expected = "one request with this custom_id and model in the input files of the folder"
    return Skip("custom_id has several requests" if found else "no request with this custom_id", shown(model), expected)


def _is_snapshot(answered: Any, asked: Any) -> bool:
    """Whether the model that answered is the one asked for, or a dated snapshot of it (gpt-4o-2024-08-06 of gpt-4o)."""
    if not isinstance(answered, str) or not isinstance(asked, str):
        return False
    return answered == asked or (answered.startswith(f"{asked}-") and answered[len(asked) + 1 :][:1].isdigit())


def _digest(request: Row) -> str:
    text = json.dumps([request["messages"], request["prompt"]], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
