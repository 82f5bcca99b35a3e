"""Langfuse's observations and scores over its API, a page at a time, kept on disk so that a broken download goes on.

`langfuse:` as a log means: all generations of the project whose keys are in LANGFUSE_PUBLIC_KEY and
LANGFUSE_SECRET_KEY, on the server in LANGFUSE_BASE_URL or LANGFUSE_HOST. `langfuse:?from=2026-01-01&to=2026-02-01`
takes those that started in that time, `&name=...` and `&environment=...` those with that name or environment.

A download is a folder of pages and a `state.json` that says how far it got; every file is written whole or not at all.
A finished one is taken further when it is asked for again: up to now, or up to `to`, beginning an hour before it ended, for a
generation is sent when its answer is there and Langfuse takes it in later still. What is downloaded twice is read once.

`langfuse:` as scores means the scores alone, of one name where one was chosen (`scores_file`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

from serving.bundle.atomic_write import written_whole
from training.logs.outcomes import OutcomeError
from training.logs.sources.langfuse.scores import ENRICHED, SCORES
from training.owned import own_folder

if TYPE_CHECKING:
    from langfuse.api.client import LangfuseAPI

SCHEME = "langfuse:"
DEFAULT_SERVER = "https://cloud.langfuse.com"

# Those of the router's own scores that are downloaded with others: they say which decision a trace belongs to.
_BELONGING = ("router_confidence", "router_cost_usd")
_PARAMETERS = ("from", "to", "name", "environment")
_FIELDS = "core,basic,io,metadata,model,usage,prompt,metrics,trace_context"
_WHOLE = "spend_logs_metadata,hidden_params"  # other metadata is cut after 200 characters
# The API gives at most 1000 observations and 100 scores a page; a page of long conversations has to fit in memory.
_OBSERVATIONS, _SCORES = 500, 100
# How late a row may come in after the time by which it is found.
_LATE = timedelta(hours=1)


class Project(NamedTuple):
    """A server and a project's keys on it."""

    server: str
    public_key: str
    secret_key: str


@dataclass(frozen=True)
class Query:
    """Which generations: those that started at `since` or later and before `until`, ISO 8601 in UTC. `scores`: of which names
    scores are, separated by commas; None: of any.
    """

    since: str | None = None
    until: str | None = None
    name: str | None = None
    environment: str | None = None
    scores: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far one table is downloaded: the time window at hand, the cursor of its next page, the pages so far."""

    since: str | None
    until: str
    cursor: str | None = None
    pages: int = 0
    done: bool = False


class Page(NamedTuple):
    """One answer of the API: JSON texts of its rows, and the cursor of the next page if there is one."""

    rows: Sequence[str]
    cursor: str | None


def recognises_url(url: str) -> bool:
    """Whether a log is named by this module's scheme."""
    return url.lower().startswith(SCHEME)


def pages(url: str, cache: Path) -> list[Path]:
    """The files of observations, scores beside them, after what is missing was downloaded; raises OutcomeError."""
    folder = download(parse_url(url), project(os.environ), cache / "langfuse")
    found = sorted((folder / ENRICHED).glob("*.jsonl"))
    if not found:
        raise OutcomeError(f"{url}: the project has no generation there; check the time, the filters and the keys")
    return found


def scores_file(url: str, cache: Path, name: str | None) -> Path:
    """The scores of a project in one file, after those that were missing were downloaded; raises OutcomeError.

    `name` chooses by name. What the router wrote itself comes with it, for `training.quality.scores` to join by.
    """
    query = parse_url(url)
    if query.name or query.environment:
        raise OutcomeError(f"{url}: as scores it takes from and to only; --score-name chooses the name")
    query = replace(query, scores=None if name is None else ",".join((name, *_BELONGING)))
    folder = download(query, project(os.environ), cache / "langfuse-scores", (SCORES,))
    latest: dict[str, str] = {}
    for page in sorted((folder / SCORES).glob("*.jsonl")):
        for line in page.read_text(encoding="utf-8").splitlines():
            latest[str(json.loads(line).get("id"))] = line
    if not latest:
        named = f" named {name}" if name else ""
        raise OutcomeError(f"{url}: the project has no scores{named} there; check the time, --score-name and the keys")
    _write_page(folder / "scores.jsonl", list(latest.values()))
    return folder / "scores.jsonl"


def parse_url(url: str) -> Query:
    """The query of a `langfuse:` URL; raises OutcomeError for an unknown parameter or a date that is none."""
    given = dict(parse_qsl(url[len(SCHEME) :].lstrip("/").removeprefix("?"), keep_blank_values=True))
    if unknown := sorted(given.keys() - set(_PARAMETERS)):
        raise OutcomeError(
            f"{url}: {unknown[0]!r} is not known; expected {SCHEME}?from=...&to=...&name=...&environment=..."
        )
    since, until = (None if word not in given else _utc(given[word], url) for word in ("from", "to"))
    return Query(since, until, given.get("name"), given.get("environment"))


def project(environment: Mapping[str, str]) -> Project:
    """The project that Langfuse's usual variables name; raises OutcomeError when a key is missing."""
    keys = ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
    absent = [name for name in keys if not environment.get(name)]
    if absent:
        raise OutcomeError(f"{SCHEME} needs {' and '.join(absent)} in the environment: a project's API keys")
    server = environment.get("LANGFUSE_BASE_URL") or environment.get("LANGFUSE_HOST") or DEFAULT_SERVER
    return Project(server.rstrip("/"), *(environment[name] for name in keys))


def download(query: Query, project: Project, root: Path, tables: Sequence[str] = (ENRICHED, SCORES)) -> Path:
    """The folder of the download, complete up to now (or `query.until`); raises OutcomeError when it breaks off."""
    own_folder(root, private=True)  # it holds prompts
    folder = own_folder(root / _key(query, project), private=True)
    now = datetime.now(UTC).isoformat()
    client = _client(project)
    state = _load_state(folder)
    fresh = all(progress.done for progress in state.values()) and len(state) in (0, len(tables))
    for table in tables:
        until = now if table == SCORES else query.until or now
        progress = state.get(table) or Progress(query.since, until)
        if fresh and progress.done and progress.until < until:  # a broken-off download is completed before
            progress = Progress(_late(progress.until), until, pages=progress.pages)
        while not progress.done:
            page = _page(client, project, table, query, progress)
            _write_page(folder / table / f"{progress.pages + 1:06d}.jsonl", page.rows)
            progress = replace(progress, cursor=page.cursor, pages=progress.pages + 1, done=page.cursor is None)
            state[table] = progress
            _write_state(folder, state)
    return folder


def _page(client: LangfuseAPI, project: Project, table: str, query: Query, progress: Progress) -> Page:
    import httpx
    import pydantic
    from langfuse.api.core.api_error import ApiError

    so_far = f"{project.server}: the download of {table} broke off after {progress.pages} pages"
    again = "run it again and it goes on from there"
    try:
        page = _observations(client, query, progress) if table == ENRICHED else _scores(client, query, progress)
    except ApiError as error:
        raise OutcomeError(f"{so_far} (HTTP {error.status_code}); {_advice(error.status_code) or again}") from error
    except httpx.HTTPError as error:
        raise OutcomeError(f"{so_far} ({type(error).__name__}); {again}") from error
    except pydantic.ValidationError as error:
        fields = ", ".join(dict.fromkeys(".".join(map(str, found["loc"][-1:])) for found in error.errors()))
        raise OutcomeError(f"{so_far}: a row does not fit the API's own types ({fields}); export to files") from None
    if page.cursor is not None and page.cursor == progress.cursor:
        raise OutcomeError(f"{project.server}: gives the same page of {table} again and again; download stopped")
    return page


def _advice(status: int | None) -> str:
    if status in (401, 403):
        return "check LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, and that they belong to this server"
    if status == 404:
        return "this server lacks the API (Langfuse before version 4); export to blob storage or from the UI"
    return ""


def _observations(client: LangfuseAPI, query: Query, progress: Progress) -> Page:
    answer = client.observations.get_many(
        fields=_FIELDS,
        expand_metadata=_WHOLE,
        type="GENERATION",
        limit=_OBSERVATIONS,
        cursor=progress.cursor,
        name=query.name,
        environment=query.environment,
        from_start_time=_instant(progress.since),
        to_start_time=_instant(progress.until),
    )
    return Page([row.json() for row in answer.data], answer.meta.cursor or None)


def _scores(client: LangfuseAPI, query: Query, progress: Progress) -> Page:
    """Scores by when they were given, which may be long after the answers they judge."""
    answer = client.scores.get_many(
        fields="subject",
        name=query.scores,
        limit=_SCORES,
        cursor=progress.cursor,
        from_timestamp=_instant(progress.since),
        to_timestamp=_instant(progress.until),
    )
    return Page([row.json() for row in answer.data], answer.meta.cursor or None)


def _client(project: Project) -> LangfuseAPI:
    from langfuse.api.client import LangfuseAPI

    return LangfuseAPI(
        base_url=project.server,
        username=project.public_key,
        password=project.secret_key,
        x_langfuse_public_key=project.public_key,
    )


def _key(query: Query, project: Project) -> str:
    """The folder's name: one per server, project and query; the secret has no part in it."""
    asked = {name: value for name, value in asdict(query).items() if name != "scores" or value}
    known = json.dumps([project.server, project.public_key, asked])
    return hashlib.blake2b(known.encode(), digest_size=8).hexdigest()


def _load_state(folder: Path) -> dict[str, Progress]:
    file = folder / "state.json"
    if not file.is_file():
        return {}
    try:
        return {table: Progress(**known) for table, known in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise OutcomeError(f"{file}: is not a download's state ({error}); delete its folder to start anew") from error


def _write_state(folder: Path, state: Mapping[str, Progress]) -> None:
    _write(folder / "state.json", json.dumps({table: asdict(progress) for table, progress in state.items()}, indent=1))


def _write_page(path: Path, rows: Sequence[str]) -> None:
    if rows:
        _write(path, "".join(f"{row}\n" for row in rows))


def _write(path: Path, text: str) -> None:
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _utc(text: str, url: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise OutcomeError(f"{url}: {text!r} is not a time; expected ISO 8601, such as 2026-01-31") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _late(until: str) -> str:
    return (datetime.fromisoformat(until) - _LATE).isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
