"""LiteLLM's StandardLoggingPayload: one record per call, as its loggers write it (JSONL, JSON, or one object per file).

How a record is read (`litellm_spend` translates its rows to these fields and shares all of it):

- a call that our own plug-in decided has its record in `metadata.spend_logs_metadata.outcome_router`, which comes first: the
  candidate that the row of the model list serves, the decision's propensity, and its id as the request's, as in our own store.
- candidate: `model`, the LLM that was called; `model_group`, the proxy's public name, only where `model` is blank.
- request: the calls of one trace that sent the same prompt are tries of one request (a retry, a fallback, a second
  candidate); a trace's other prompts are other requests. So the request is the trace and a digest of the prompt, which
  needs no memory of the records before. The table also carries `try_id` and `trace_id`, for joining judgements.
- session: `session_id`, of the record or of its metadata; else the trace.
- workflow: the tag `workflow:NAME`; else the first tag that LiteLLM did not make of the user agent or a credential.
- latency: end minus start. `response_time` is the time to the first token where the answer was streamed.
- cost: `response_cost`; nothing where LiteLLM says that it failed to price the call and therefore wrote 0.
- propensity: that of `metadata.routing_decision`. Where the call went to another LLM than the decision names, that one failed:
  it has a row of its own, an error with the propensity, before that of the call, which has none.
- quality: nothing, unless the sender put a `quality` into the metadata, and where it is from as `quality_source`.

Not outcomes of a candidate, and counted as skipped: cache hits, calls that complete no text, calls that LiteLLM made
for itself, requests that the proxy refused, and prompts that the proxy redacted or cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from training.logs import typed
from training.logs.aliases import alike
from training.logs.cells import blank, fields, first_of, parsed, shown
from training.logs.io import files
from training.logs.io.files import Records
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes, Unreadable
from training.logs.sources.chat_bodies import parameters_text
from training.logs.sources.importer import DEFAULT, ImportOptions

NAME = "litellm"
EXPECTS = "LiteLLM's StandardLoggingPayload records (id, trace_id, call_type, model, response_cost, messages, …)"
COMPANIONS: frozenset[str] = frozenset()
SETTING = "litellm_settings: turn_off_message_logging: false"
REDACTED = "prompt redacted by the proxy"

_MARKS = frozenset({"id", "call_type", "model", "response_cost", "startTime"})
_FIELDS = _MARKS | {
    "trace_id", "session_id", "status", "model_group", "prompt_tokens", "completion_tokens", "endTime", "cache_hit",
    "request_tags", "messages", "metadata", "error_information", "response_cost_failure_debug_info", "quality",
    "quality_source", "model_id",
}  # fmt: skip
_PARAMETERS = frozenset({"model_parameters", "optional_params"})
_COMPLETIONS = frozenset(
    {"completion", "text_completion", "anthropic_messages", "responses"}
    | {"acompletion", "atext_completion", "aresponses"}
)
_REDACTIONS = frozenset({"redacted-by-litellm", "REDACTED_BY_LITELM"})
_TRUNCATION = "litellm_truncated"
_STATUSES = {"failure": "error"}
# Tags that the proxy adds to those of the sender.
_MADE_TAGS = ("User-Agent:", "Credential:")
_WORKFLOW_TAG = "workflow:"
# Where a sender's own keys end up, depending on how they were sent.
_PLUGIN = ("spend_logs_metadata", "outcome_router")
_NESTED_METADATA = ("requester_metadata", "spend_logs_metadata")


def recognises(path: LogPath) -> bool:
    """Whether the head of the file has the record's fields."""
    return files.columns(path) >= _MARKS


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file; raises OutcomeError when it cannot be opened or when the proxy redacted every prompt."""
    wanted = _FIELDS | ({"response"} if options.answers else set()) | (_PARAMETERS if options.parameters else set())
    parts = outcomes_of(path, format=NAME, convert=lambda records: convert(records, SETTING), wanted=wanted)
    return require_prompts(parts, str(path), SETTING)


def convert(records: Records, setting: str) -> Records:
    """One partition of payloads under the outcome table's names; `setting` is what makes the proxy keep prompts."""
    found: list[dict[str, Any]] = []
    rows: list[int] = []
    skipped: list[Unreadable] = []
    for row, record in records.numbered():
        if reason := _no_outcome(record, row, setting):
            skipped.append(reason)
        else:
            outcomes = _outcomes(record)
            found += outcomes
            rows += [row] * len(outcomes)
    return Records(_table(found), rows, [*records.unreadable, *skipped])


def require_prompts(parts: Iterator[Outcomes], source: str, setting: str) -> Iterator[Outcomes]:
    """The same partitions; raises OutcomeError at the end if none had a usable row because of redacted prompts."""
    used = redacted = total = 0
    for part in parts:
        used += len(part.frame)
        redacted += part.reasons.get(REDACTED, 0)
        total += part.rows_read
        yield part
    if redacted and not used:
        raise OutcomeError(
            f"{source}: no usable prompt: LiteLLM's proxy logged {redacted} of the {total} rows without theirs. "
            f"Set {setting} in the proxy's configuration; the requests logged from then on can be imported"
        )


def _no_outcome(record: Mapping[str, Any], row: int, setting: str) -> Unreadable | None:
    """Why a record is no outcome of a candidate, or None."""
    if str(record.get("cache_hit")).strip().lower() == "true":
        return Unreadable(row, "cache hit is no outcome of a candidate", "cache_hit true", "an answer of an LLM")
    if not _is_completion(record):
        return Unreadable(row, "call completes no text", shown(record.get("call_type")), "a chat or text completion")
    if origin := _own(fields(record.get("metadata")), "internal_call_origin"):
        return Unreadable(row, "call that LiteLLM made for itself", shown(origin), "a call that a client asked for")
    if blank(record.get("call_type")) and blank(fields(record.get("error_information")).get("llm_provider")):
        return Unreadable(row, "refused before it reached a candidate", "failure", "a call that reached an LLM")
    texts = list(_texts(parsed(record.get("messages"))))
    if not texts and _withheld(parsed(record.get("messages"))):
        return Unreadable(row, REDACTED, "no prompt", setting)
    if texts and all(text.strip() in _REDACTIONS for text in texts):
        return Unreadable(row, REDACTED, "a placeholder", setting)
    if any(_TRUNCATION in text for text in texts):
        return Unreadable(row, "prompt cut by the proxy", "a part of it", "MAX_STRING_LENGTH_PROMPT_IN_DB above it")
    return None


def _is_completion(record: Mapping[str, Any]) -> bool:
    """By the call type; failures that the proxy logs after the call have none, and do not say what they were."""
    call_type = record.get("call_type")
    if blank(call_type):
        return str(record.get("status")).strip().lower() == "failure"
    return isinstance(call_type, str) and call_type.strip() in _COMPLETIONS


def _withheld(messages: Any) -> bool:
    """Whether this is the empty object that the proxy writes for a prompt that it does not store."""
    return isinstance(messages, dict) and not messages


def _texts(messages: Any) -> Iterator[str]:
    if isinstance(messages, str):
        yield messages
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        for part in content if isinstance(content, list) else ():
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                yield text


def _outcomes(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The outcome of a call, after that of the LLM it fell back from, which a record of its own may say again."""
    outcome, decision = _outcome(record), _decision(record)
    if not _fell_back(record, decision):
        return [outcome]
    nothing = dict.fromkeys(
        ("quality", "quality_source", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "ended", "answer")
    )
    failed = {"candidate": decision["routed_model"], "propensity": decision.get("propensity"), "status": "error"}
    return [{**outcome, **nothing, **failed, "inferred": True}, outcome]


def _outcome(record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = fields(record.get("metadata"))
    messages = parsed(record.get("messages"))
    status = record.get("status")
    trace = first_of(record.get("trace_id"))
    return {
        "try_id": record.get("id"),
        "trace_id": trace,
        "prompt": messages if isinstance(messages, str) else None,
        "messages": None if isinstance(messages, str) else messages,
        "candidate": first_of(served(record), record.get("model"), record.get("model_group")),
        "quality": first_of(record.get("quality"), _own(metadata, "quality")),
        "quality_source": first_of(record.get("quality_source"), _own(metadata, "quality_source")),
        "cost_usd": _cost(record),
        "input_tokens": record.get("prompt_tokens"),
        "output_tokens": record.get("completion_tokens"),
        "started": record.get("startTime"),
        "ended": record.get("endTime"),
        "latency_ms": record.get("request_duration_ms"),
        "session_id": first_of(record.get("session_id"), _own(metadata, "session_id"), trace),
        "workflow": _workflow(record.get("request_tags")),
        "propensity": _propensity(record),
        "answer": _answer(parsed(record.get("response"))),
        "parameters": parameters_text(*(record.get(name) for name in sorted(_PARAMETERS))),
        "status": _STATUSES.get(status.strip().lower(), status) if isinstance(status, str) else status,
        "inferred": False,
        "decision_id": first_of(_recorded(record).get("decision_id")),
    }


def _answer(response: Any) -> str | None:
    """The text that was answered, None where there is none: not logged, redacted, or only calls of tools."""
    if not isinstance(response, dict):
        return None
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else first.get("text")
    return text if isinstance(text, str) and text.strip() not in _REDACTIONS else None


def _table(found: list[dict[str, Any]]) -> pd.DataFrame:
    """The outcomes as a table, with what is faster by column: the request, the timestamp and the latency."""
    if not found:
        return pd.DataFrame()
    columns: dict[str, list[Any]] = {name: [outcome[name] for outcome in found] for name in found[0]}
    started, ended, inferred = columns.pop("started"), columns.pop("ended"), columns.pop("inferred")
    decided = columns.pop("decision_id")
    table = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
    requests = [decision or request for decision, request in zip(decided, _requests(table), strict=True)]
    table["request_id"] = pd.Series(requests, dtype=object)
    table["try_id"] = table["try_id"].mask(
        pd.Series(inferred, dtype=bool), None
    )  # a judgement of the call is of its own LLM
    table["timestamp"] = pd.Series(started, dtype=object)
    table["latency_ms"] = pd.Series(_latency(columns["latency_ms"], started, ended), dtype=object)
    return table


def _requests(table: pd.DataFrame) -> list[Any]:
    """Trace and digest of the prompt; the record's own identifier where it belongs to no trace."""
    conversations = typed.messages(table["messages"]).values
    keys = [
        prompt if conversation is None else typed.messages_key(conversation)
        for prompt, conversation in zip(table["prompt"], conversations, strict=True)
    ]
    return [
        _request(call, trace, key) for call, trace, key in zip(table["try_id"], table["trace_id"], keys, strict=True)
    ]


def _request(call: Any, trace: Any, prompt: str | None) -> Any:
    if trace is None:
        return call
    if prompt is None or not isinstance(trace, str | int):
        return trace  # such a row is skipped: for its prompt, or for this
    # Salted with the trace, so that nobody can look prompts up by their digest alone.
    text = f"{trace}\0{prompt}".encode("utf-8", "surrogatepass")
    return f"{trace}:{hashlib.blake2b(text, digest_size=8).hexdigest()}"


def _latency(known: list[Any], started: list[Any], ended: list[Any]) -> list[Any]:
    """Milliseconds, as logged or from start and end; None where neither is there."""
    start = typed.instant(pd.Series(started, dtype=object)).values
    end = typed.instant(pd.Series(ended, dtype=object)).values
    taken = ((end - start).dt.total_seconds() * 1000).tolist()
    return [value if blank(cell) else cell for cell, value in zip(known, taken, strict=True)]


def _cost(record: Mapping[str, Any]) -> Any:
    cost = record.get("response_cost")
    unpriced = not blank(parsed(record.get("response_cost_failure_debug_info")))
    return None if unpriced and str(cost).strip() in ("0", "0.0") else cost


def _workflow(cell: Any) -> str | None:
    tags = parsed(cell)
    tags = [tags] if isinstance(tags, str) else tags
    texts = [tag.strip() for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    own = [tag for tag in texts if tag and not tag.startswith(_MADE_TAGS)]
    named = next((tag for tag in own if tag.lower().startswith(_WORKFLOW_TAG)), None)
    if named is not None:
        return named[len(_WORKFLOW_TAG) :].strip()
    return next(iter(own), None)


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the plug-in recorded of its decision on this call; nothing where it made none."""
    return fields(fields(fields(record.get("metadata")).get(_PLUGIN[0])).get(_PLUGIN[1]))


def served(record: Mapping[str, Any]) -> Any:
    """The candidate that was called, by the row of the model list; None where the plug-in did not decide."""
    recorded = _recorded(record)
    row = record.get("model_id")
    ranks = recorded.get("ranks")
    if isinstance(row, str):
        named = fields(recorded.get("rows")).get(row) or (row if isinstance(ranks, list) and row in ranks else None)
        if named is not None:
            return named
    return first_of(recorded.get("picked"), recorded.get("model"))


def _decision(record: Mapping[str, Any]) -> dict[str, Any]:
    recorded = _recorded(record)
    if not blank(recorded.get("model")):
        return {"routed_model": recorded["model"], "propensity": recorded.get("propensity")}
    return fields(_own(fields(record.get("metadata")), "routing_decision"))


def _propensity(record: Mapping[str, Any]) -> Any:
    decision = _decision(record)
    routed = decision.get("routed_model")
    called = (served(record), record.get("model"), record.get("model_group"))
    return decision.get("propensity") if blank(routed) or routed in called else None


def _fell_back(record: Mapping[str, Any], decision: Mapping[str, Any]) -> bool:
    """Whether the call went to another LLM than was decided on, under a name that cannot be one of the same LLM's."""
    routed = decision.get("routed_model")
    answered = served(record)
    names = (record.get("model"), record.get("model_group")) if answered is None else (answered,)
    called = [name for name in names if isinstance(name, str) and name.strip()]
    if not isinstance(routed, str) or not routed.strip() or not called:
        return False
    return not any(name == routed or alike({routed: 1, name: 1}, ()) for name in called)


def _own(metadata: dict[str, Any], key: str) -> Any:
    """What the sender put into the metadata under this key, at the top or where LiteLLM moves it."""
    places = (metadata, *(fields(metadata.get(name)) for name in _NESTED_METADATA))
    return first_of(*(place.get(key) for place in places))
