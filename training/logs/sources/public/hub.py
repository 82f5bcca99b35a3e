"""Public data by name: `hf:owner/name` downloads a data set's files from the Hugging Face Hub to the local cache.

`hf:owner/name@revision` takes a branch, a tag or a commit, `hf:owner/name/path` one file or a pattern. Whatever is named
is resolved to a commit first, and every file is of that commit.

A pickle is a program: loading one runs whatever its author wrote. RouterBench is published as pickles, so they are read
on demand only (`allow_pickle`), by an unpickler that knows nothing but what a table of pandas is made of, and are kept as
CSV from then on. Such a file can still be large enough to exhaust memory.
"""

from __future__ import annotations

import fnmatch
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from serving.bundle.atomic_write import written_whole
from training.logs.io import files
from training.logs.outcomes import OutcomeError
from training.owned import own_file

PREFIX = "hf:"
PICKLES = (".pkl", ".pickle")
# RouterBench's other two files are the same answers in long form and a variant with examples in the prompts.
DEFAULT_FILES = {"withmartian/routerbench": "routerbench_0shot.pkl"}
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<pattern>.+))?")
# What tables are pickled as by pandas 1 to 3, one by one: pandas and numpy also have functions that run code or open
# files, so no module is trusted as a whole.
_ALLOWED: dict[str, frozenset[str]] = {
    "builtins": frozenset({"slice", "bytearray"}),
    "_codecs": frozenset({"encode"}),
    "numpy": frozenset({"ndarray", "dtype"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "pandas": frozenset(
        {"DataFrame", "Index", "RangeIndex", "MultiIndex", "Categorical", "CategoricalDtype", "StringDtype"}
    ),
    "pandas.arrays": frozenset({"ArrowStringArray", "DatetimeArray", "BooleanArray", "IntegerArray", "FloatingArray"}),
    "pandas.core.frame": frozenset({"DataFrame"}),
    "pandas.core.indexes.base": frozenset({"_new_Index", "Index"}),
    "pandas.core.indexes.range": frozenset({"RangeIndex"}),
    "pandas.core.internals.managers": frozenset({"BlockManager"}),
    "pandas._libs.internals": frozenset({"_unpickle_block"}),
    "pandas._libs.arrays": frozenset({"__pyx_unpickle_NDArrayBacked"}),
    "pyarrow.lib": frozenset({"_restore_array", "type_for_alias", "py_buffer"}),
}
_RENAMED = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray",
            "numpy.core.numeric": "numpy._core.numeric"}  # fmt: skip


class HubError(OutcomeError):
    """Public data that could not be fetched or may not be read; the message says what to do."""


@dataclass(frozen=True)
class Fetched:
    """Files of one commit of a data set, on this disk; `revision` is the whole commit hash."""

    repository: str
    revision: str
    paths: tuple[Path, ...]


def recognises_url(text: str) -> bool:
    """Whether this names data on the Hub instead of a file."""
    return text.startswith(PREFIX)


def fetch(name: str, *, cache: Path, allow_pickle: bool = False) -> Fetched:
    """Downloads what `hf:owner/name` names, unless it is here; raises HubError.

    Taken are the files whose suffix is a log's. Downloads go where huggingface_hub puts them (HF_HOME, from HF_ENDPOINT),
    pickles as CSV into `cache`.
    """
    if (asked := _NAME.fullmatch(name)) is None:
        raise HubError(
            f"{name!r} is not a data set: expected hf:owner/name, hf:owner/name@revision or hf:owner/name/path"
        )
    repository = asked["repo"]
    pattern = asked["pattern"] or DEFAULT_FILES.get(repository, "*")
    revision, names = _list(repository, asked["revision"])
    chosen = _choose(name, [one for one in names if fnmatch.fnmatch(one, pattern)], pattern, names, allow_pickle)
    folder = cache / "hub" / f"{repository.replace('/', '--')}@{revision[:12]}"
    paths = [_download(repository, one, revision) for one in chosen]
    return Fetched(
        repository, revision, tuple(_as_csv(path, folder) if _pickled(path.name) else path for path in paths)
    )


def _choose(name: str, found: list[str], pattern: str, names: list[str], allow_pickle: bool) -> list[str]:
    logs = sorted(one for one in found if files.kind(Path(one)))
    pickles = sorted(one for one in found if _pickled(one))
    if allow_pickle:
        logs += pickles
    if logs:
        return logs
    if pickles:
        raise HubError(
            f"{name}: {', '.join(pickles)} is a pickle, and loading a pickle can run any program. With --allow-pickle it is "
            "read by an unpickler that allows the classes of a pandas table and nothing else."
        )
    shown = ", ".join(sorted(names)[:10]) or "no file"
    raise HubError(f"{name}: no file matches {pattern!r} and ends in {', '.join(files.SUFFIXES)}; it has {shown}")


def _pickled(name: str) -> bool:
    return name.lower().endswith(PICKLES)


def _list(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit that a revision is now, and its files."""
    from huggingface_hub import HfApi

    with _explained(repository):
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).dataset_info(repository, revision=revision or "main")
    return str(info.sha), [file.rfilename for file in info.siblings or ()]


def _download(repository: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(repository):
        found = hf_hub_download(
            repository, name, repo_type="dataset", revision=revision, endpoint=os.environ.get("HF_ENDPOINT")
        )
    return Path(found)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turns what the Hub answers instead of data into a HubError."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (HfHubHTTPError, HTTPError, OSError) as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise HubError(
            f"{PREFIX}{repository}: not fetched ({first}). Check the name, the revision, the network and, for data that is "
            "not public, HF_TOKEN; or download the files yourself and give their folder."
        ) from error


def read_pickle(path: Path) -> pd.DataFrame:
    """The table in a pickle, made of nothing but the allowed classes; raises HubError for anything else."""
    try:
        with path.open("rb") as file:
            table = _TableUnpickler(file).load()
    except HubError as error:
        raise HubError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever the classes in it raise
        raise HubError(f"{path}: not a readable pickle ({type(error).__name__}: {error}); download it again") from error
    if not isinstance(table, pd.DataFrame):
        raise HubError(f"{path}: expected a pickled pandas DataFrame, got {type(table).__name__}")
    return table


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = _RENAMED.get(module, module)
        if name not in _ALLOWED.get(module, ()):
            raise HubError(f"refused: the pickle asks for {module}.{name}, which no table is made of")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise HubError(f"refused: the pickle refers to something outside of it ({type(pid).__name__})")


def _as_csv(path: Path, folder: Path) -> Path:
    """A pickled table as CSV in the folder, made once."""
    made = own_file(folder / f"{path.stem}.csv")
    if made.exists():
        return made
    table = read_pickle(path)
    with written_whole(made) as draft:
        table.to_csv(draft, index=False)
    return made
