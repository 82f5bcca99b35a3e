"""Whether LiteLLM is told not to log what a request says: nothing keeps its text then, the router's store included.

Any one sign is enough: what takes it back for LiteLLM's log (`litellm-disable-message-redaction`) does not for the store.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

_OFF = "turn_off_message_logging"
_BUCKETS = ("metadata", "litellm_metadata")
# Where LiteLLM leaves what the key and its team, and the client itself, say.
_SAID_IN = ("user_api_key_metadata", "user_api_key_team_metadata", "requester_metadata")
_HEADERS = frozenset({"litellm-enable-message-redaction", "x-litellm-enable-message-redaction"})


def unlogged(data: Mapping[str, Any]) -> bool:
    """By LiteLLM's own setting, the request, its headers, its key or its team."""
    if getattr(sys.modules.get("litellm"), _OFF, False) is True or _true(data.get("no-log")):
        return True
    return any(_true(said.get(_OFF)) for said in _all_that_say(data)) or any(
        bool(value) and str(name).lower() in _HEADERS for headers in _headers(data) for name, value in headers.items()
    )


def _all_that_say(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield data
    for name in _BUCKETS:
        bucket = _mapping(data.get(name))
        for said in filter(None, (bucket, *(_mapping(bucket.get(one)) for one in _SAID_IN if bucket))):
            yield said
            logging = said.get("logging")  # a key's or team's callbacks, with their variables
            for callback in logging if isinstance(logging, list) else ():
                yield _mapping(_mapping(callback).get("callback_vars"))


def _headers(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield _mapping(_mapping(data.get("proxy_server_request")).get("headers"))
    for name in _BUCKETS:
        yield _mapping(_mapping(data.get(name)).get("headers"))


def _true(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
