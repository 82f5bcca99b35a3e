"""OpenRouter: logged requests with their responses, joined on the generation's id with its generation records.

The responses carry `usage.cost`; a generation record (GET /generation) adds what was billed, latency and session, and
wins where both speak. It has no prompt: the requests have to be logged by the caller, as pairs of request and response
bodies, or as {id, input, output} from GET /generation/content where OpenRouter was told to keep inputs and outputs.
The candidate is the model that answered, which OpenRouter may choose itself.

What makes one request: pairs that say the same `request_id`; otherwise every generation is a request of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from training.logs.cells import fields, first_of, json_object, shown
from training.logs.io import files
from training.logs.io.files import Row
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes, Unreadable
from training.logs.sources import openai
from training.logs.sources.chat_bodies import billed
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.sources.tries import Signature, Skip, beside, gather, remembered, signature
from training.logs.validate import refused

NAME = "openrouter"
EXPECTS = (
    "request and response bodies whose ids begin with gen-, and generation records (id, total_cost, ...) beside them"
)
COMPANIONS: frozenset[str] = frozenset()

_KEPT = (
    "model", "total_cost", "upstream_inference_cost", "is_byok", "created_at", "session_id", "cancelled",
    "finish_reason", "tokens_prompt", "tokens_completion", "native_tokens_prompt", "native_tokens_completion",
    "latency", "generation_time", "api_type", "response_cache_source_id",
)  # fmt: skip
_NOT_TEXT = frozenset({"embeddings", "rerank", "tts", "stt", "image", "video"})
_GENERATION = "a generation record with an id"


class _Generations:
    """Generation records by id, where they stand, and what could not be used of their files."""

    def __init__(self) -> None:
        self.by_id: dict[str, Row] = {}
        self.places: dict[str, tuple[LogPath, int]] = {}
        self.unreadable: dict[LogPath, list[Unreadable]] = {}


def recognises(path: LogPath) -> bool:
    """Whether the head holds OpenRouter's pairs, or generation records without any pairs beside them."""
    return _is_pairs(path) or (_is_generations(path) and not beside(path, _is_pairs))


def accompanies(path: LogPath) -> bool:
    """Whether the file holds generation records."""
    return _is_generations(path)


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file of pairs; raises OutcomeError for generation records, which have no prompts.

    A generation record without a logged request counts as a skipped row, once: with the folder's first file of pairs.
    """
    pairs = beside(path, _is_pairs)
    if _is_generations(path):
        raise OutcomeError(_no_prompts(path, pairs))
    if not _is_pairs(path):
        raise OutcomeError(f"{path}: not an {NAME} file; expected {EXPECTS}; arrived: {files.shown_columns(path)}")
    generations = _generations(signature(beside(path, _is_generations)))
    stem = files.stem(path)

    def convert(records: files.Records) -> files.Records:
        return gather(records, lambda pair, row: [_outcome(pair, row, stem, generations.by_id, options)])

    yield from outcomes_of(path, format=NAME, convert=convert)
    if path.name == pairs[0].name:
        yield from _left_over(generations, pairs)


def _outcome(pair: Row, row: int, stem: str, generations: dict[str, Row], options: ImportOptions) -> Row | Skip:
    found = openai.outcome_of(_bare(pair), row, stem, options)
    if isinstance(found, Skip):
        return found
    response = openai.response_body(pair)
    # OpenRouter may answer with another LLM than was asked for: the model that answered is the candidate.
    found["candidate"] = first_of(response.get("model"), found["candidate"])
    generation = generations.get(str(_id(pair)))
    return found if generation is None else _joined(found, generation)


def _joined(outcome: Row, generation: Row) -> Row | Skip:
    """The outcome with what its generation record says."""
    if generation["cancelled"] is True:
        return Skip("generation was cancelled", "", "a generation that was waited for")
    if first_of(generation["response_cache_source_id"]) is not None:
        return Skip("answered from a cache", "", "a generation of an LLM")
    if generation["api_type"] in _NOT_TEXT:
        return Skip("not a chat request", shown(generation["api_type"]), "a chat completion")
    failed = generation["finish_reason"] == "error" or outcome["status"] == "error"
    found = {
        "candidate": generation["model"],
        "cost_usd": billed(*(generation[name] for name in ("total_cost", "is_byok", "upstream_inference_cost"))),
        # Prices are per token of the LLM's own tokenizer; tokens_prompt counts by one tokenizer for all.
        "input_tokens": first_of(generation["native_tokens_prompt"], generation["tokens_prompt"]),
        "output_tokens": first_of(generation["native_tokens_completion"], generation["tokens_completion"]),
        "latency_ms": _latency(generation),
        "timestamp": generation["created_at"],
        "session_id": generation["session_id"],
    }
    known = {name: cell for name, cell in found.items() if first_of(cell) is not None}
    return {**outcome, **known, "status": "error" if failed else outcome["status"]}


def _latency(generation: Row) -> Any:
    """Milliseconds until the answer was whole: some records' `latency` ends at the first token."""
    times = [generation["latency"], generation["generation_time"]]
    numbers = [time for time in times if isinstance(time, int | float)]
    return max(numbers) if len(numbers) == len(times) else first_of(*times)


def _bare(pair: Row) -> Row:
    """The pair with the input of GET /generation/content ({"messages": ...}, {"prompt": ...}) as its request."""
    if _answered_content(pair) is None:
        return pair
    output = fields(pair.get("output"))
    message = {"role": "assistant", "content": output.get("completion")}
    return {**pair, "output": {"id": pair.get("id"), "choices": [{"message": message}]}}


def _answered_content(pair: Row) -> Row | None:
    output = json_object(pair.get("output"))
    return output if output is not None and "completion" in output else None


def _id(pair: Row) -> Any:
    return first_of(openai.response_body(pair).get("id"), pair.get("id"))


@remembered
def _is_pairs(path: LogPath) -> bool:
    return any(
        openai.is_openrouter(record) and (openai.is_pair(record) or _answered_content(record) is not None)
        for record in files.head_objects(path)
    )


@remembered
def _is_generations(path: LogPath) -> bool:
    return any(_generation(record) is not None for record in files.head_objects(path))


def _generation(record: Row) -> Row | None:
    """A generation record, bare or as the API answers with it, under `data`."""
    inner = json_object(record.get("data")) if "total_cost" not in record else record
    if inner is None or "total_cost" not in inner or not inner.keys() & {"tokens_prompt", "native_tokens_prompt"}:
        return None
    return inner


@lru_cache(maxsize=1)  # for every file of pairs in a folder
def _generations(paths: Signature) -> _Generations:
    found = _Generations()
    for name, _, _ in paths:
        unreadable = found.unreadable.setdefault(name, [])
        for records in files.partitions(name):
            unreadable += records.unreadable
            for row, line in records.numbered():
                if problem := _keep(found, line, name, row):
                    unreadable.append(problem)
    return found


def _keep(found: _Generations, line: Row, name: LogPath, row: int) -> Unreadable | None:
    generation = _generation({field: cell for field, cell in line.items() if first_of(cell) is not None})
    identifier = None if generation is None else generation.get("id")
    if generation is None or not isinstance(identifier, str):
        return Unreadable(row, "not a generation record", "", _GENERATION)
    if identifier in found.by_id:
        return Unreadable(row, "duplicate generation", shown(identifier), "each generation once")
    found.by_id[identifier] = {field: generation.get(field) for field in _KEPT}
    found.places[identifier] = (name, row)
    return None


def _left_over(generations: _Generations, pairs: list[LogPath]) -> Iterator[Outcomes]:
    """The generation records that are in no outcome, as skipped rows of their files."""
    logged = {str(_id(pair)) for path in pairs for part in files.partitions(path) for _, pair in part.numbered()}
    left = {name: list(found) for name, found in generations.unreadable.items()}
    for identifier, (name, row) in generations.places.items():
        if identifier not in logged:
            expected = "a logged request whose response has this id"
            left[name].append(Unreadable(row, "no request with this generation id", shown(identifier), expected))
    for name, unreadable in left.items():
        yield refused(str(name), unreadable)


def _no_prompts(path: LogPath, pairs: list[LogPath]) -> str:
    start = f"{path}: holds generation records, and OpenRouter returns no prompts with them"
    if pairs:
        return f"{start}; give {pairs[0]}, which holds the requests, or the folder: the two are joined on the id"
    return (
        f"{start}; put a JSONL file with the logged requests into the same folder, one "
        '{"request": {...}, "response": {"id": "gen-...", ...}} per line, and give the folder'
    )
