"""Google Cloud Storage, by Google's own client, which finds credentials as Google's programs do. It is an extra of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from training.logs.objects.address import ObjectStoreError
from training.logs.objects.store import ANSWER_S, CONNECT_S, Found, ThereAlreadyError, replaced, vanished

try:
    import requests
    from google.api_core import exceptions
    from google.auth import exceptions as auth
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY
except ModuleNotFoundError:
    raise ObjectStoreError("gs:// is read by google-cloud-storage: pip install 'outcome-router[train,gs]'") from None

_TIMES: Any = {"timeout": (CONNECT_S, ANSWER_S), "retry": DEFAULT_RETRY.with_timeout(30.0)}
_WHERE_FROM = (
    "They are looked for in the file that GOOGLE_APPLICATION_CREDENTIALS names, in what `gcloud auth application-default "
    "login` left, and with the machine"
)


class GoogleCloudStorage:
    """The store, or what STORAGE_EMULATOR_HOST says."""

    def __init__(self) -> None:
        with _told("gs://"):
            # The project is for making buckets, which nothing here does.
            self._client = storage.Client(project="none")

    def find(self, bucket: str, key: str) -> Found | None:
        with _told(f"gs://{bucket}/{key}"):
            try:
                blob = self._client.bucket(bucket).get_blob(key, **_TIMES) if key else None
            except exceptions.NotFound:
                return None
        return None if blob is None else _found(blob)

    def below(self, bucket: str, prefix: str, *, deep: bool = True) -> Iterator[Found | str]:
        with _told(f"gs://{bucket}/{prefix}"):
            blobs = self._client.list_blobs(bucket, prefix=prefix, delimiter=None if deep else "/", **_TIMES)
            for page in blobs.pages:
                yield from map(_found, page)
            yield from sorted(blobs.prefixes)

    def part(self, bucket: str, found: Found, start: int, end: int) -> bytes:
        url, arrived = f"gs://{bucket}/{found.key}", _Answer(end - start + 1)
        with _told(url):
            blob = self._client.bucket(bucket).blob(found.key)
            try:
                blob.download_to_file(
                    arrived,
                    start=start,
                    end=end - 1,
                    if_generation_match=int(found.version),
                    raw_download=True,
                    checksum=None,
                    **_TIMES,
                )
            except _Longer:
                pass  # the byte too many says so
            except exceptions.NotFound:
                raise vanished(url) from None
            except exceptions.PreconditionFailed:
                raise replaced(url) from None
        return arrived.getvalue()

    def put(self, bucket: str, key: str, data: bytes, *, new: bool = False) -> None:
        with _told(f"gs://{bucket}/{key}"):
            blob = self._client.bucket(bucket).blob(key)
            blob.upload_from_string(
                data, content_type="application/octet-stream", if_generation_match=0 if new else None, **_TIMES
            )

    def remove(self, bucket: str, key: str) -> None:
        with _told(f"gs://{bucket}/{key}"):
            try:
                self._client.bucket(bucket).blob(key).delete(**_TIMES)
            except exceptions.NotFound:
                return


class _Longer(Exception):  # noqa: N818  # who reads stops here, nobody is told
    """An answer with more bytes than are taken."""


class _Answer(io.BytesIO):
    """The bytes of an answer, of which so many are taken."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, block: Any) -> int:
        taken = super().write(memoryview(block)[: self._most - self.tell()])
        if self.tell() >= self._most:
            raise _Longer
        return taken


def _found(blob: Any) -> Found:
    return Found(blob.name, int(blob.size), str(blob.generation), blob.updated)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Faults of Google's client as ours."""
    bucket = url.split("/")[2]
    try:
        yield
    except exceptions.NotFound:
        raise ObjectStoreError(f"{url}: there is no bucket {bucket}. Check its name") from None
    except exceptions.PreconditionFailed:
        raise ThereAlreadyError(f"{url}: there is an object of this name") from None
    except exceptions.Forbidden:
        raise ObjectStoreError(
            f"{url}: the store does not let these credentials do it. Reading takes storage.objects.get and "
            "storage.objects.list, importing storage.objects.create and storage.objects.delete as well"
        ) from None
    except (exceptions.Unauthorized, auth.GoogleAuthError) as error:
        raise ObjectStoreError(
            f"{url}: no credentials that the store takes ({type(error).__name__}). {_WHERE_FROM}"
        ) from None
    except (exceptions.RetryError, exceptions.ServerError, requests.RequestException) as error:
        raise ObjectStoreError(
            f"{url}: the store does not answer ({type(error).__name__}). Check the network"
        ) from None
    except exceptions.GoogleAPIError as error:
        raise ObjectStoreError(f"{url}: the store refused it ({str(error)[:200]})") from None
