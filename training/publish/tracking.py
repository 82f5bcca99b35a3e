"""MLflow: each run's parameters, figures and bundle, and the registry's champion. The only file that imports mlflow.

Aliases of the registered model: "champion" is the bundle in use, "previous" the champion before it, "challenger" the
newest bundle that was not promoted.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from training.config import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
_BUNDLE = "bundle"  # the tag of a model version that names its bundle


@dataclass(frozen=True)
class Tracked:
    """Where a run went: its id, the version of the registered model and that version's alias."""

    run_id: str
    model_version: str
    alias: str


def track(
    settings: Tracking,
    bundle: Path,
    params: Mapping[str, Any],
    figures: Mapping[str, Any],
    tags: Mapping[str, str],
    *,
    promoted: bool,
) -> Tracked:
    """Logs one run with its bundle as an artefact and registers the bundle: as champion if promoted, else as challenger.

    The run and the model version carry `tags`. `settings.uri` may be a server; with a SQLite one no server is needed, and
    its folder is made.
    """
    client = _client(settings)
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(settings.experiment)
    location = Path(settings.artifacts).resolve().as_uri()
    experiment_id = (
        client.create_experiment(settings.experiment, artifact_location=location)
        if experiment is None
        else experiment.experiment_id
    )
    run = client.create_run(experiment_id, run_name=bundle.name)
    run_id = run.info.run_id
    now = run.info.start_time
    numbers = {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0) for key, value in numbers.items()],
        params=[Param(key, str(value)[:500]) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    _keep(client, run_id, run.info.artifact_uri, bundle)
    client.set_terminated(run_id)
    try:
        client.create_registered_model(settings.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{run.info.artifact_uri}/bundle"
    version = client.create_model_version(settings.model, source, run_id, tags={**tags, _BUNDLE: bundle.name})
    number = str(version.version)
    if promoted:
        _crown(client, settings.model, number)
    else:
        client.set_registered_model_alias(settings.model, CHALLENGER, number)
    return Tracked(run_id, number, CHAMPION if promoted else CHALLENGER)


def _keep(client: MlflowClient, run_id: str, location: str, bundle: Path) -> None:
    """Makes the bundle an artefact of the run: by reference where both are on one disk, so that nothing is there twice.

    A bundle's files are never written again, and a file stays as long as either name of it does.
    """
    folder = urlsplit(location)
    if folder.scheme not in ("", "file"):
        client.log_artifacts(run_id, str(bundle), "bundle")
        return
    target = Path(url2pathname(folder.path)) / "bundle"
    target.mkdir(parents=True)
    for file in sorted(path for path in bundle.iterdir() if path.is_file()):
        try:
            (target / file.name).hardlink_to(file)
        except OSError:  # another disk, or one that has no hard links
            shutil.copy2(file, target / file.name)


def versions(settings: Tracking) -> dict[str, str]:
    """The registered model's versions, {bundle: model version}; empty where nothing was ever registered."""
    client = _reader(settings)
    if client is None:
        return {}
    found = client.search_model_versions(f"name = '{settings.model}'")
    oldest_first = sorted(found, key=lambda version: int(version.version))
    return {version.tags[_BUNDLE]: str(version.version) for version in oldest_first if _BUNDLE in version.tags}


def set_champion(settings: Tracking, bundle: str) -> str | None:
    """Makes a registered bundle the champion and the champion before it "previous".

    `bundle` is the name of its folder. Gives its model version, or None where it was never registered.
    """
    number = versions(settings).get(bundle)
    if number is not None:
        _crown(_client(settings), settings.model, number)
    return number


def _crown(client: MlflowClient, model: str, number: str) -> None:
    """Moves the aliases: what was champion is "previous", and a challenger that is champion is none any more."""
    aliases = _aliases(client, model)
    if aliases.get(CHAMPION, number) != number:
        client.set_registered_model_alias(model, PREVIOUS, aliases[CHAMPION])
    client.set_registered_model_alias(model, CHAMPION, number)
    if aliases.get(CHALLENGER) == number:
        client.delete_registered_model_alias(model, CHALLENGER)


def _aliases(client: MlflowClient, model: str) -> dict[str, str]:
    """{alias: model version}; empty where the model is not registered."""
    found = client.search_registered_models(f"name = '{model}'")
    return {alias: str(number) for entry in found for alias, number in entry.aliases.items()}


def _reader(settings: Tracking) -> MlflowClient | None:
    """A client to look something up with; None where the SQLite file is not there, which looking would make."""
    if (path := _sqlite(settings)) is not None and not path.is_file():
        return None
    return _client(settings)


def _client(settings: Tracking) -> MlflowClient:
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if (path := _sqlite(settings)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.uri)
    return mlflow.MlflowClient(tracking_uri=settings.uri, registry_uri=settings.uri)


def _sqlite(settings: Tracking) -> Path | None:
    """The file of a SQLite URI; None for a server."""
    prefix = "sqlite:///"
    return Path(settings.uri.removeprefix(prefix)) if settings.uri.startswith(prefix) else None
