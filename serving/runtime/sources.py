"""Bundles from MLflow's model registry: "models:/router@champion", "models:/router/7". Needs mlflow, an optional extra.

MLFLOW_TRACKING_URI (or MLFLOW_REGISTRY_URI) says where the registry is, as everywhere with MLflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving.bundle.manifest import MANIFEST, BundleError

_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def version_of(uri: str) -> int:
    """The version that a model URI means now; raises BundleError."""
    return int(_found(uri).version)


@contextmanager
def downloaded(uri: str, version: int) -> Iterator[Path]:
    """A folder with the bundle that is registered as that version of the URI's model, removed at the end.

    Raises BundleError.
    """
    parsed = _parsed(uri)
    found = _found(f"models:/{parsed['name']}/{version}")
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory(prefix="outcome-router-") as temporary:
        try:
            folder = Path(download_artifacts(artifact_uri=found.source, dst_path=temporary)).resolve()
        except (MlflowException, OSError) as error:
            raise BundleError(f"{uri}: version {version} cannot be downloaded from {found.source}: {error}") from error
        if not (folder / MANIFEST).is_file():
            raise BundleError(
                f"{uri}: version {version} holds no bundle (no {MANIFEST}); register one with router-train"
            )
        yield folder


def _found(uri: str) -> Any:
    parsed = _parsed(uri)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        raise BundleError(
            f"{uri}: mlflow is not installed: pip install 'outcome-router[mlflow]', or give a folder"
        ) from error
    client = MlflowClient()
    try:
        if parsed["alias"] is not None:
            return client.get_model_version_by_alias(parsed["name"], parsed["alias"])
        return client.get_model_version(parsed["name"], parsed["version"])
    except MlflowException as error:
        raise BundleError(f"{uri}: MLflow has no such model version: {error}") from error


def _parsed(uri: str) -> re.Match[str]:
    parsed = _URI.fullmatch(uri)
    if parsed is None:
        raise BundleError(f"{uri}: expected models:/<name>@<alias> or models:/<name>/<version>")
    return parsed
