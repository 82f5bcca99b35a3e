"""Object stores on loopback that tests write to and read from: moto's S3, and an emulator of Google's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from training.logs.objects import path
from training.logs.objects.kinds import store_of

KEY, SECRET = "AKIATESTSTESTSTESTS1", "s3cr3t/of+the.tests"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}


@dataclass
class S3Server:
    """An S3 with one empty bucket, `logs`, and a client of it."""

    url: str
    client: Any
    variables: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, body: str | bytes) -> None:
        self.client.put_object(Bucket="logs", Key=key, Body=body)

    def listed(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="logs")
        return [one["Key"] for page in pages for one in page.get("Contents", ())]


def forget() -> None:
    """What the process keeps of stores and of what it read there."""
    store_of.cache_clear()
    path._kept.cache_clear()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """One for several tests; `empty` makes it as new."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    names = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    try:
        yield S3Server(
            url,
            boto3.session.Session().client("s3", endpoint_url=url, **names),
            {**ENVIRONMENT, "AWS_ENDPOINT_URL": url},
        )
    finally:
        server.stop()


def empty(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store, which this process's environment names."""
    with urlopen(f"{server.url}/moto-api/reset", data=b"") as answer:
        assert json.load(answer)["status"] == "ok"
    server.client.create_bucket(Bucket="logs")
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    forget()
