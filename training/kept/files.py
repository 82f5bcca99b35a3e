"""`out/kept/<version>/`: what a later run needs of the one that made a bundle, beside the bundle and never inside it.

A bundle is served, registered and copied; what is kept stays where it was trained. It goes when its bundle is gone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.bundle.atomic_write import for_its_owner, remove_drafts, written_folder
from serving.bundle.manifest import MANIFEST, BundleError, Manifest, open_bundle, sha256
from training.errors import TrainingError
from training.learn.heads.chosen import Choices
from training.owned import own_folder, require_own

FOLDER = "kept"
ACCOUNT = "kept.json"
# Raise it when what is written here changes so that an earlier release reads it wrongly, or this one an earlier's.
FORMAT_VERSION = 1
_LISTS = ("since", "formats", "surface")
# Between a version and the operating point that `set-point` made its default: the same bundle, with the same kept files.
_AT = "-at-"
# A draft that nobody finished for so long was left by a process that was killed.
_STALE_SECONDS = 86_400.0
_OR_EVERYTHING = "and train on everything: router-train run --data OLD --data NEW"
_ELSEWHERE = "or have the bundles written elsewhere (--out)"
_WHOLE = "Train on everything: router-train run --data OLD --data NEW"


class KeptError(TrainingError):
    """Nothing kept that new rows could be added to, or what does not go with it; the message says which and what to do."""


@dataclass(frozen=True)
class Kept:
    """What was kept of the run that made `bundle`: `rows` outcomes of `requests` requests, `learned` of which have features.

    `params` are all parameters ("stage.key"), `since` the bundles that it was added to, the first one first, `files` the
    sha256 of each file, `salt` what its core was drawn by (None: none was). `formats` are those that its logs had, `prices`
    what each candidate's million tokens cost in USD, in and out.
    """

    folder: Path
    bundle: str
    created: str
    fingerprint: str
    params: dict[str, Any]
    choices: Choices
    since: tuple[str, ...]
    formats: tuple[str, ...]
    rows: int
    requests: int
    learned: int
    surface: tuple[str, ...]
    prices: dict[str, list[float | None]]
    files: dict[str, str]
    salt: int | None = None

    def path(self, name: str) -> Path:
        return self.folder / name


def kept_folder(bundle: Path) -> Path:
    """Where what belongs to a bundle's folder, or a link to it, is kept."""
    real = bundle.resolve()
    own = real.parent / FOLDER / real.name
    return own if own.exists() else own.with_name(real.name.partition(_AT)[0])


def open_kept(bundle: Path, *, whole: bool = True) -> Kept:
    """What is kept of the bundle in a folder; with `whole` its files are checked. Raises KeptError, BundleError, or
    NotOwnError where others may have written there."""
    manifest = open_bundle(bundle).manifest
    folder = kept_folder(bundle)
    if not (folder / ACCOUNT).is_file():
        raise KeptError(_nothing(bundle, manifest, folder))
    for place in (folder.parent, folder, *folder.iterdir()):
        require_own(place, private=True, instead=_OR_EVERYTHING)
    try:
        told: dict[str, Any] = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))
        arrived = told.pop("format_version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KeptError(f"{folder / ACCOUNT} is damaged ({error}). {_WHOLE}") from error
    if arrived != FORMAT_VERSION:
        raise KeptError(
            f"{folder / ACCOUNT} has format version {arrived!r}, this release reads {FORMAT_VERSION}: another release wrote "
            f"it. {_WHOLE}"
        )
    try:
        listed: dict[str, Any] = {name: _listed(told.pop(name)) for name in _LISTS}
        found = Kept(folder=folder, choices=Choices.read(told.pop("choices")), **listed, **told)
        files = {str(name): str(digest) for name, digest in found.files.items()}
        _require_types(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeptError(f"{folder / ACCOUNT} is damaged ({error}). {_WHOLE}") from error
    if found.bundle != manifest.version.partition(_AT)[0]:
        raise KeptError(
            f"{folder / ACCOUNT} is of {found.bundle}, and this is {manifest.version}: somebody put it there. {_WHOLE}"
        )
    if whole:
        if there := {path.name for path in folder.iterdir()} - {ACCOUNT} - set(files):
            raise KeptError(f"{folder / ACCOUNT} does not know {', '.join(sorted(there))}: it is damaged. {_WHOLE}")
        for name, digest in files.items():
            path = found.path(name)
            if not path.is_file() or sha256(path) != digest:
                what = "is not what was written" if path.is_file() else "is gone"
                raise KeptError(f"{path} {what}: nothing can be added to it. {_WHOLE}")
    return found


def newest_kept(since: Path) -> Path:
    """Of a folder of bundles the newest that something is kept of, promoted or not; anything else as it is."""
    if (since / MANIFEST).exists():
        return since
    for account in sorted(since.glob(f"{FOLDER}/*/{ACCOUNT}"), reverse=True):
        name = account.parent.name
        if there := sorted([*since.glob(f"{name}/{MANIFEST}"), *since.glob(f"{name}{_AT}*/{MANIFEST}")]):
            return there[0].parent
    return since


def added_before(kept: Kept) -> list[Kept]:
    """What is kept of the bundles beside it that were made by adding rows to it, the newest last; what is not to be added to is
    left out."""
    found = []
    for account in sorted(kept.folder.parent.glob(f"*/{ACCOUNT}")):
        try:
            if kept.bundle in json.loads(account.read_text(encoding="utf-8"))["since"]:
                found.append(open_kept(kept.folder.parent.parent / account.parent.name, whole=False))
        except (BundleError, OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _require_types(found: Kept) -> None:
    """Raises TypeError for an account with a value that is none of its kind."""
    fits = {
        **{name: isinstance(getattr(found, name), str) for name in ("bundle", "created", "fingerprint")},
        **{name: isinstance(getattr(found, name), dict) for name in ("params", "prices", "files")},
        **{name: _count(getattr(found, name), 1) for name in ("rows", "requests", "learned")},
        **{name: all(isinstance(one, str) for one in getattr(found, name)) for name in _LISTS},
        "salt": found.salt is None or _count(found.salt, 0),
    }
    fits["prices"] = fits["prices"] and all(map(_price, found.prices.values()))
    for name, fit in fits.items():
        if not fit:
            raise TypeError(f"{name} is {getattr(found, name)!r:.40}")
    if not found.files or any(Path(name).name != name for name in found.files):
        raise TypeError("files are none of its own")


def _count(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**64


def _price(pair: Any) -> bool:
    return isinstance(pair, list) and all(
        one is None or (type(one) in (int, float) and 0 <= one < math.inf) for one in pair
    )


def _listed(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is no list")
    return tuple(value)


def _nothing(bundle: Path, manifest: Manifest, folder: Path) -> str:
    if manifest.simulated:
        return (
            f"{bundle} was trained on the simulated log of a run without --data, of which nothing is kept. Train on your own "
            "log first: router-train run --data LOG"
        )
    return (
        f"nothing is kept of {bundle}: there is no {folder}. Its run was of an earlier release, had --set since.keep=false or "
        "ended before it had kept anything, the folder was removed, or the bundle was made by `add-candidate` or copied from "
        f"elsewhere without it. {_WHOLE}"
    )


def require_own_room(out: Path) -> None:
    """Raises NotOwnError where others may have written into `out/kept`."""
    if os.path.lexists(out / FOLDER):
        own_folder(out / FOLDER, private=True, instead=_ELSEWHERE)


def write_kept(out: Path, account: Kept, write: Callable[[Path], None]) -> Path:
    """Writes `out/kept/<version>`, its files by `write`, whole or not at all, for its owner alone; the folder."""
    final = out / FOLDER / account.bundle
    with for_its_owner():
        own_folder(final.parent, private=True, instead=_ELSEWHERE)
        with written_folder(final) as folder:
            write(folder)
            files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            told = asdict(account) | {"files": files, "choices": account.choices.written()}
            del told["folder"]
            text = json.dumps({"format_version": FORMAT_VERSION, **told}, indent=1, allow_nan=False)
            (folder / ACCOUNT).write_text(text, encoding="utf-8")
    prune(out)
    return final


def prune(out: Path) -> list[str]:
    """Removes what is kept of bundles that are gone from `out`, and drafts that were never finished; their names."""
    there = {path.name.partition(_AT)[0] for path in out.iterdir() if path.is_dir() and not path.is_symlink()}
    gone = []
    remove_drafts(out / FOLDER, older=_STALE_SECONDS)
    for path in sorted((out / FOLDER).iterdir()):
        if path.is_dir() and not (path.name.startswith(".") or path.name in there):
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path.name)
    return gone


def changed_prices(before: Mapping[str, list[float | None]], now: Mapping[str, list[float | None]]) -> list[str]:
    """The candidates whose price is another one now."""
    return [name for name, price in now.items() if name in before and list(before[name]) != list(price)]
