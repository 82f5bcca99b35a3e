"""Amazon S3 and stores that speak its protocol, by boto3: it finds credentials, regions and endpoints as AWS's programs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions
from botocore.config import Config

from training.logs.objects.address import ObjectStoreError
from training.logs.objects.store import ANSWER_S, CONNECT_S, TRIES, Found, ThereAlreadyError, replaced, vanished

_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_CHANGED = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_NO_RIGHT = frozenset({"403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "UnauthorizedAccess"})
_NOT_KNOWN = frozenset({
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "ExpiredTokenException",
    "TokenRefreshRequired", "AuthFailure", "InvalidClientTokenId", "RequestTimeTooSkewed", "InvalidIdentityToken", "401",
})  # fmt: skip
_WHERE_FROM = (
    "They are looked for in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in ~/.aws (AWS_PROFILE names a profile), in a web "
    "identity (AWS_WEB_IDENTITY_TOKEN_FILE), and with the machine"
)
_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.ProfileNotFound,
    exceptions.RefreshWithMFAUnsupportedError,
    exceptions.MetadataRetrievalError,
)
_BROKEN = (exceptions.HTTPClientError, exceptions.IncompleteReadError, exceptions.FlexibleChecksumError)


class S3:
    """The store that the environment and the profile files say."""

    def __init__(self) -> None:
        with _told("s3", ""):
            retries: Any = {"mode": "standard", "total_max_attempts": TRIES}
            config = Config(connect_timeout=CONNECT_S, read_timeout=ANSWER_S, retries=retries)
            self._client: Any = boto3.session.Session().client("s3", config=config)
        self._at = urlsplit(self._client.meta.endpoint_url).netloc.rpartition("@")[2]

    def find(self, bucket: str, key: str) -> Found | None:
        with self._told(bucket, key):
            try:
                told = self._client.head_object(Bucket=bucket, Key=key)
            except exceptions.ClientError as error:
                if _code(error) in _GONE:
                    return None
                if _code(error) in _NO_RIGHT:  # an answer without a body does not say more; this one does
                    self._client.get_object(Bucket=bucket, Key=key)["Body"].close()
                raise
            return _found(key, told["ContentLength"], told)

    def below(self, bucket: str, prefix: str, *, deep: bool = True) -> Iterator[Found | str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, **({} if deep else {"Delimiter": "/"})
        )
        with self._told(bucket, prefix):
            for page in pages:
                for one in page.get("Contents", ()):
                    yield _found(one["Key"], one["Size"], one)
                yield from (one["Prefix"] for one in page.get("CommonPrefixes", ()))

    def part(self, bucket: str, found: Found, start: int, end: int) -> bytes:
        asked = {"Bucket": bucket, "Key": found.key, "Range": f"bytes={start}-{end - 1}", "IfMatch": found.version}
        with self._told(bucket, found.key):
            try:
                return self._whole(asked, end - start + 1)
            except exceptions.ClientError as error:
                url = f"s3://{bucket}/{found.key}"
                if _code(error) in _GONE:
                    raise vanished(url) from None
                if _code(error) in _CHANGED:
                    raise replaced(url) from None
                raise
        raise AssertionError

    def _whole(self, asked: dict[str, str], most: int) -> bytes:
        """An answer's bytes, up to `most`: boto3 asks again where no answer begins, but not where one breaks off."""
        for _ in range(TRIES - 1):
            body = self._client.get_object(**asked)["Body"]
            try:
                return _read(body, most)
            except _BROKEN:
                continue
        return _read(self._client.get_object(**asked)["Body"], most)

    def put(self, bucket: str, key: str, data: bytes, *, new: bool = False) -> None:
        with self._told(bucket, key):
            self._client.put_object(Bucket=bucket, Key=key, Body=data, **({"IfNoneMatch": "*"} if new else {}))

    def remove(self, bucket: str, key: str) -> None:
        with self._told(bucket, key):
            self._client.delete_object(Bucket=bucket, Key=key)

    def _told(self, bucket: str, key: str) -> Any:
        return _told(f"s3://{bucket}/{key}", self._at)


def _found(key: str, size: Any, told: Any) -> Found:
    if int(size) < 0:
        raise ValueError(f"{size} bytes")
    changed: datetime = told["LastModified"]
    return Found(key, int(size), str(told["ETag"]), changed)


def _read(body: Any, most: int) -> bytes:
    """What the body of an answer has, up to `most` bytes: boto3 tells whether it was broken off where it has no more."""
    found = bytearray()
    with closing(body):
        while len(found) < most and (block := body.read(most - len(found))):
            found += block
    return bytes(found)


def _code(error: exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _told(url: str, at: str) -> Iterator[None]:
    """Faults of boto3 as ours; what they say may hold what the environment holds, and is not repeated."""
    try:
        yield
    except exceptions.ClientError as error:
        raise _refused(url, at, error) from None
    except _NO_CREDENTIALS as error:
        raise ObjectStoreError(f"{url}: no credentials for S3 ({type(error).__name__}). {_WHERE_FROM}") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise ObjectStoreError(
            f"{url}: {at} does not answer ({type(error).__name__}). Check the network, and the endpoint: AWS_ENDPOINT_URL_S3, "
            "AWS_ENDPOINT_URL or endpoint_url of the profile where the store is not Amazon's"
        ) from None
    except exceptions.FlexibleChecksumError:
        raise ObjectStoreError(
            f"{url}: arrived damaged {TRIES} times: what {at} answered has not the checksum that it says. Read it again; if it "
            "stays so, see whether a proxy before the store changes what it answers"
        ) from None
    except (KeyError, TypeError) as error:
        raise ObjectStoreError(
            f"{url}: {at} answers otherwise than S3 does ({type(error).__name__}). Check the endpoint, and whether a proxy "
            "stands before it"
        ) from None
    except (exceptions.BotoCoreError, ValueError) as error:
        if isinstance(error, ObjectStoreError):
            raise
        raise ObjectStoreError(
            f"{url}: S3 cannot be asked ({type(error).__name__}). Check AWS_ENDPOINT_URL, AWS_REGION and the files in ~/.aws"
        ) from None


def _refused(url: str, at: str, error: exceptions.ClientError) -> ObjectStoreError:
    code, words = _code(error), str(error.response.get("Error", {}).get("Message", ""))
    bucket = url.split("/")[2]
    if code == "NoSuchBucket":
        return ObjectStoreError(f"{url}: there is no bucket {bucket} at {at}. Check its name, and the endpoint")
    if code in _GONE:
        return ObjectStoreError(f"{url}: there is no such object at {at}")
    if code in _CHANGED:
        return ThereAlreadyError(f"{url}: there is an object of this name")
    if code in _NO_RIGHT:
        return ObjectStoreError(
            f"{url}: {at} does not let these credentials do it ({code}, {error.operation_name}). Reading takes s3:GetObject "
            "and s3:ListBucket, importing s3:PutObject and s3:DeleteObject as well"
        )
    if code in _NOT_KNOWN:
        return ObjectStoreError(f"{url}: {at} does not take the credentials ({code}). {_WHERE_FROM}")
    return ObjectStoreError(f"{url}: {at} refused {error.operation_name} ({code}: {words[:200]})")
