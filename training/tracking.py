"""MLflow: each run's parameters, figures and bundle, and the registry's champion. The only file that imports mlflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import Tracking


@dataclass(frozen=True)
class Tracked:
    """Where a run went: its id and the version of the registered model."""

    run_id: str
    model_version: str


def track(
    settings: Tracking, bundle: Path, params: Mapping[str, Any], figures: Mapping[str, Any], tags: Mapping[str, str]
) -> Tracked:
    """Logs one run with its bundle as an artefact, registers the bundle and gives it the alias "champion".

    `settings.uri` may be a server; with a SQLite one no server is needed, and its folder is made.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    import mlflow
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if settings.uri.startswith("sqlite:///"):
        Path(settings.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.uri)
    client = mlflow.MlflowClient(tracking_uri=settings.uri, registry_uri=settings.uri)
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
    client.log_artifacts(run_id, str(bundle), "bundle")
    client.set_terminated(run_id)
    try:
        client.create_registered_model(settings.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(settings.model, f"{run.info.artifact_uri}/bundle", run_id)
    client.set_registered_model_alias(settings.model, "champion", version.version)
    return Tracked(run_id, str(version.version))
