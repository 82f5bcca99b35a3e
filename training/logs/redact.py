"""Masks e-mail addresses, phone numbers, keys and card numbers in what was logged, before anything is kept of it.

Each is found by a library that does nothing else: linkify-it-py, phonenumbers, detect-secrets, and python-stdnum's Luhn
check. What is found is replaced by a stand-in of the same kind that belongs to nobody (example.com is reserved by RFC
2606, 555-01xx by the North American numbering plan), because the served router embeds requests as they come:
"user@example.com" moves an embedding less than "[EMAIL]" does.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import detect_secrets.plugins
from detect_secrets.plugins.base import RegexBasedDetector
from linkify_it import LinkifyIt  # type: ignore[import-untyped]
from phonenumbers import PhoneNumberMatcher
from stdnum import luhn

from training.logs.outcomes import Outcomes

STAND_INS = {
    "e-mail": "user@example.com",
    "phone": "+1 202-555-0100",
    "key": "sk-xxxxxxxx",
    "card": "0000 0000 0000 0000",
}
_CARD_DIGITS = range(13, 20)
_PHONE_DIGITS = 7
# Of several digit groups with one space or hyphen between them.
_DIGIT_GROUPS = re.compile(r"\d+(?:[ -]\d+)*")
# What the library finds beside keys, and keys that only the name before them tells.
_NO_KEYS = {
    "Public IP (ipv4)",
    "SoftLayer Credentials",
    "Cloudant Credentials",
    "IBM COS HMAC Credentials",
    "IBM Cloud IAM Key",
}
_PRIVATE_KEY_END = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
_KEPT = frozenset({"role", "type"})
_IDENTIFIERS = ("request_id", "session_id")


class PrefixedKey(RegexBasedDetector):
    """Keys of LLM providers, which begin with sk- and which the library knows in OpenAI's old shape only."""

    secret_type = "prefixed key"
    denylist = (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),)


class Redactor:
    """Masks text and outcome tables; `counts` is how many of each kind it has masked.

    `regions` (ISO 3166, two letters) are where phone numbers without a country code may be from.
    """

    def __init__(self, regions: Sequence[str] = ("US",)) -> None:
        self.counts: dict[str, int] = {}
        self._regions = regions
        self._detectors = _detectors()
        self._links = LinkifyIt(options={"fuzzy_link": False, "fuzzy_ip": False, "fuzzy_email": True})

    def outcomes(self, part: Outcomes) -> Outcomes:
        """The same outcomes, masked. An identifier that holds something becomes a hash of itself: it still groups."""
        frame = part.frame.assign(
            prompt=part.frame["prompt"].map(self.text, na_action="ignore"),
            messages=part.frame["messages"].map(self._value, na_action="ignore"),
            workflow=part.frame["workflow"].map(self.text, na_action="ignore"),
            **{name: part.frame[name].map(self._identifier, na_action="ignore") for name in _IDENTIFIERS},
        )
        texts = [name for name in ("answer", "expected") if name in part.beside]
        beside = part.beside.assign(**{name: part.beside[name].map(self.text, na_action="ignore") for name in texts})
        if "parameters" in beside:
            beside["parameters"] = beside["parameters"].map(self._json, na_action="ignore")
        skipped = part.skipped.assign(value=part.skipped["value"].map(self.text))
        types = {name: part.frame[name].dtype for name in frame}
        return replace(
            part,
            frame=frame.astype(types),
            skipped=skipped.astype(dict(part.skipped.dtypes)),
            beside=beside.astype(dict(part.beside.dtypes)),
        )

    def text(self, text: str) -> str:
        """The text with a stand-in for everything that was found."""
        found: list[tuple[int, int, str]] = []
        rest = text
        for kind, find in (
            ("key", self._keys), ("e-mail", self._emails), ("card", _cards), ("phone", self._phones),
        ):  # fmt: skip
            for start, end in find(rest):
                found.append((start, end, kind))
                # Of what is taken nothing else is found: a card number is no phone number.
                rest = rest[:start] + "\n" * (end - start) + rest[end:]
        for start, end, kind in sorted(found, reverse=True):
            text = text[:start] + STAND_INS[kind] + text[end:]
            self.counts[kind] = self.counts.get(kind, 0) + 1
        return text

    def _identifier(self, text: str) -> str:
        if self.text(text) == text:
            return text
        return f"redacted-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"

    def _json(self, text: str) -> str:
        return json.dumps(self._value(json.loads(text)))

    def _value(self, value: Any) -> Any:
        """Everything that is text in a message, but for its role and the type of its parts."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {key: item if key in _KEPT else self._value(item) for key, item in value.items()}
        return value

    def _keys(self, text: str) -> list[tuple[int, int]]:
        found = (
            match.span()
            for detector, pattern in self._detectors
            for match in pattern.finditer(text)
            if any(detector.analyze_string(match.group()))  # some look closer at what their pattern has matched
        )
        return _apart([(start, _end_of_private_key(text, start, end)) for start, end in found])

    def _emails(self, text: str) -> list[tuple[int, int]]:
        if "@" not in text:
            return []
        found = self._links.match(text) or []
        return [(match.index, match.last_index) for match in found if "@" in match.text and match.schema == "mailto:"]

    def _phones(self, text: str) -> list[tuple[int, int]]:
        if sum(map(text.count, "0123456789")) < _PHONE_DIGITS:
            return []
        found = (match for region in self._regions for match in PhoneNumberMatcher(text, region))
        return _apart([(match.start, match.end) for match in found])


def _detectors() -> list[tuple[Any, re.Pattern[str]]]:
    """The library's detectors of keys that have a shape of their own, with each of their patterns.

    Those that guess by entropy or by the name before the value are left out: in prose they find too much.
    """
    modules = pkgutil.iter_modules(detect_secrets.plugins.__path__, "detect_secrets.plugins.")
    classes = {
        value
        for module in modules
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type) and issubclass(value, RegexBasedDetector) and not inspect.isabstract(value)
    }
    known = [kind() for kind in sorted(classes, key=lambda kind: kind.__name__)]
    chosen = [PrefixedKey(), *(detector for detector in known if detector.secret_type not in _NO_KEYS)]
    # The library goes line by line, and some patterns begin at the start of one.
    return [(one, re.compile(regex.pattern, regex.flags | re.MULTILINE)) for one in chosen for regex in one.denylist]


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """Runs of 13 to 19 digits that pass the Luhn check; in a longer run every succession of its groups is tried."""
    for run in _DIGIT_GROUPS.finditer(text):
        groups = [(run.start() + g.start(), run.start() + g.end()) for g in re.finditer(r"\d+", run.group())]
        first = 0
        while first < len(groups):
            last = next((last for last in range(len(groups), first, -1) if _is_card(text, groups[first:last])), None)
            if last is None:
                first += 1
                continue
            yield groups[first][0], groups[last - 1][1]
            first = last


def _is_card(text: str, groups: list[tuple[int, int]]) -> bool:
    digits = "".join(text[start:end] for start, end in groups)
    return len(digits) in _CARD_DIGITS and digits.isascii() and luhn.is_valid(digits)


def _end_of_private_key(text: str, start: int, end: int) -> int:
    """The detector finds the first line of a private key; what is secret comes below it."""
    if "PRIVATE KEY" not in text[start:end]:
        return end
    found = _PRIVATE_KEY_END.search(text, end)
    return found.end() if found else len(text)


def _apart(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that overlap as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
