"""Which store a URL is of; what reads it is loaded with the first one, for most logs are on a disk."""

from __future__ import annotations

from functools import cache

from training.logs.objects.store import Store


@cache
def store_of(scheme: str) -> Store:
    """The store that URLs of a scheme are of; raises ObjectStoreError where what reads it is not installed."""
    if scheme == "gs":
        from training.logs.objects.gs import GoogleCloudStorage

        return GoogleCloudStorage()
    from training.logs.objects.s3 import S3

    return S3()
