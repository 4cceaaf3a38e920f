"""Every rule that hides a secret: in logs, records, errors for clients, reports and dead letters. Pure.

A secret becomes `***`. Two kinds are hidden: secrets that the node knows (its API key, its Pulsar token), wherever they
stand; and text that looks like a key, or that stands where keys stand, because providers repeat a refused key in their
error message and clients send keys in headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote

MASK = "***"
# Local servers are given API keys such as `none`, `EMPTY` or `x`. Hiding such a word would make errors and log lines
# unreadable.
SHORTEST_SECRET = 6  # characters
DEEPEST_BODY = 50  # levels of an error body that are kept; real ones have three
MOST_HEADERS = 100  # headers of a message that are searched for secrets, and values of each header

_SECRET_HEADER = re.compile(r"(?i)auth|cookie|credential|key|password|secret|session|signature|token")

# In text that is no JSON: where headers begin, the pieces that open and close values, and a member with a secret name.
# Quotes are escaped where JSON was put into a JSON text.
_HEADERS = re.compile(r"""(?i)(headers\\{0,8}["']?\s{0,8}[:=]\s{0,8})[{\[]""")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|[{}\[\]]', re.DOTALL)
_SECRET_MEMBER = re.compile(
    r"""(?i)(["'][^"'\\]{0,100}(?:auth|cookie|credential|key|password|secret|session|signature)[^"'\\]{0,100}"""
    r"""\\{0,8}["']\s{0,8}:\s{0,8})"""
    r"""(?:\[[^\]]*(?:\]|$)|"(?:[^"\\]|\\.)*(?:"|$)|\\{1,8}"(?:[^"\\]|\\[^"])*(?:\\{1,8}"|$))""",
    re.DOTALL,
)

# A user and password in the address of a task's gateway: http://user:password@host. JSON may write `/` as `\/`.
_ENDPOINT_LOGIN = re.compile(
    rb"""(?i)(["']endpoint\\{0,8}["']\s{0,8}:\s{0,8}\\{0,8}["'][^"'@]{0,100}?:(?:\\{0,8}/){2})"""
    rb"""[^"'/?#]{1,1000}@"""
)

# What keys look like, and where they stand, such as in "Incorrect API key provided: sk-abc***xyz". A digit or a star
# must be in a key, so that `sk-learn` stays. The pattern never takes away a quote or a backslash: JSON stays JSON.
_VALUE = r"""[^\s"'\\,;&\]}]"""
_QUOTE = r"""\\*["']?"""
_KEYS = re.compile(
    rf"((?i:authorization{_QUOTE}\s*[:=]\s*(?:\[\s*)?{_QUOTE}(?:(?:bearer|basic|token)\s+)?|\bbearer\s+)){_VALUE}+"
    rf"|((?i:\bapi[ _-]?key){_QUOTE}(?:\s+provided)?\s*[:=]\s*{_QUOTE})(?={_VALUE}{{0,200}}?[0-9*]){_VALUE}+"
    r"|\b(?<!-)(?:sk-|gsk_|xai-|hf_|nvapi-|pplx-)(?=[\w*-]{0,200}?[0-9*])[\w*-]{5,}"
    r"|\b(?:AIza|AKIA)[\w-]{8,}"
    r"|\beyJ[\w-]{8,}(?:\.[\w-]*){0,2}"  # a JSON web token
)
# One of these is in every text that the pattern matches. Searching for them first makes the usual case 20 times faster.
_HINTS = ("authorization", "bearer", "api", "sk-", "gsk_", "xai-", "hf_", "pplx-", "aiza", "akia", "eyj")

# A user and password in any address: scheme://user:password@host. JSON may write `/` as `\/`.
_LOGIN = re.compile(r"""(:(?:\\{0,8}/){2})[^\s"'\\/?#<>]{1,1000}@""")

# A local model has a new key at each start: the older ones are worth nothing any more.
MOST_ADDED = 50

_added: tuple[str, ...] = ()


def add_secrets(secrets: Iterable[str]) -> None:
    """Hide these secrets as well from now on, everywhere in this process: a key that was read while the node runs."""
    global _added  # noqa: PLW0603  # one list for the process, because every output has to know it
    _added = tuple(dict.fromkeys((*_added, *secrets)))[-MOST_ADDED:]


def mask_keys(text: str) -> str:
    """Return the text with `***` for whatever looks like a key, and for a user and password in an address.

    Words such as `max_tokens` stay.
    """
    if "@" in text:
        text = _LOGIN.sub(rf"\1{MASK}@", text)
    lower = text.lower()
    for hint in _HINTS:
        if hint in lower:
            return _KEYS.sub(rf"\1\2{MASK}", text)
    return text


def hide_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return the text with `***` for each of the secrets that is at least SHORTEST_SECRET long."""
    for secret in (*secrets, *_added):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return text


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return somebody else's text as people and records may see it: no known secret, nothing that looks like a key."""
    return mask_keys(hide_secrets(text, secrets))


def hide_secrets_in_body(body: dict[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a JSON object without the secrets in any of its texts; names of members stay.

    What is nested deeper than DEEPEST_BODY becomes null.
    """
    secrets = tuple(secrets)
    return {name: _hidden(value, secrets, 1) for name, value in body.items()}


def _hidden(value: object, secrets: tuple[str, ...], depth: int) -> object:
    if isinstance(value, str):
        return hide_secrets(value, secrets)
    if depth > DEEPEST_BODY:
        return None
    if isinstance(value, dict):
        return {name: _hidden(each, secrets, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each, secrets, depth + 1) for each in value]
    return value


def redact_message(payload: bytes) -> bytes:
    """Return a Pulsar message as it may be stored: `***` for the keys, cookies and the like in the client's headers.

    A user and password in the endpoint are masked as well. All else stays byte for byte, so that what was wrong with
    the message can still be seen. Where the headers are not where a task has them, whatever looks like a key, or has
    the name of one, is masked wherever it stands. A message that cannot be parsed loses its headers as a whole.
    """
    encoding = json.detect_encoding(payload)
    if not encoding.startswith("utf-8"):  # UTF-16 and UTF-32: JSON, but never a task
        with suppress(UnicodeError):
            text = payload.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
            return redact_message(text).decode("utf-8", "surrogatepass").encode(encoding, "surrogatepass")
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return _without_headers(payload)
    if isinstance(message, str):  # JSON inside JSON
        return _without_headers(payload)
    metadata = message.get("metadata") if isinstance(message, dict) else None
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(headers, dict):
        payload, headers = _mask_keys(payload), message
    for value in islice(_secrets_in(headers), MOST_HEADERS * MOST_HEADERS):
        payload = _without_json_text(payload, value)
    return _without_login(payload)


def _without_headers(payload: bytes) -> bytes:
    """Return a message that cannot be parsed, without all that may be headers, and with its keys masked."""
    text = payload.decode("latin-1")  # latin-1 maps any bytes to text and back
    kept, at = [], 0
    for found in _HEADERS.finditer(text):
        if found.start() >= at:
            kept += [text[at : found.end(1)], f'"{MASK}"']
            at = _end_of_value(text, found.end(1))
    text = "".join([*kept, text[at:]])
    return _without_login(mask_keys(_SECRET_MEMBER.sub(rf'\1"{MASK}"', text)).encode("latin-1"))


def _without_login(payload: bytes) -> bytes:
    return _ENDPOINT_LOGIN.sub(rb"\1%b@" % MASK.encode(), payload)


def _end_of_value(text: str, start: int) -> int:
    """Return where the JSON object or list that starts there ends; the end of the text if it was cut."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _mask_keys(payload: bytes) -> bytes:
    return mask_keys(payload.decode("latin-1")).encode("latin-1")  # latin-1 maps any bytes to text and back


def _secrets_in(value: object, is_secret: bool = False, depth: int = 0) -> Iterator[str]:
    """Yield the texts under names of secret headers, at most MOST_HEADERS members of each object or list."""
    if isinstance(value, str) and is_secret:
        yield value
    elif depth > DEEPEST_BODY:
        return
    elif isinstance(value, dict):
        for name, each in islice(value.items(), MOST_HEADERS):
            yield from _secrets_in(each, is_secret or bool(_SECRET_HEADER.search(name)), depth + 1)
    elif isinstance(value, list):
        for each in islice(value, MOST_HEADERS):
            yield from _secrets_in(each, is_secret, depth + 1)


def _without_json_text(payload: bytes, value: str) -> bytes:
    """Mask a text in JSON bytes, however JSON writes it."""
    if len(value) >= SHORTEST_SECRET:
        for ascii_only in (True, False):
            written = json.dumps(value, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogatepass")
            payload = payload.replace(written, MASK.encode())
    return payload


class Redactor:
    """Hides secrets in log lines: the secrets it was given, in each form a line may hold, and what looks like a key."""

    def __init__(self, secrets: Iterable[str], *, as_json: bool) -> None:
        self._as_json = as_json
        self._forms: tuple[str, ...] = ()
        self._added = _added  # what was added for the whole process when this one last looked
        self._add((*secrets, *_added))

    def _add(self, secrets: Iterable[str]) -> None:
        forms = set(self._forms)
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                in_repr = secret.replace("\\", "\\\\")
                written = {secret, in_repr, in_repr.replace("'", "\\'"), quote(secret, safe="")}  # quote: in an address
                forms |= {json.dumps(form)[1:-1] for form in written} if self._as_json else written
        self._forms = tuple(sorted(forms, key=len, reverse=True))  # a secret may begin with another: the longer first

    def __call__(self, line: str) -> str:
        """Return the line without secrets; a line that was JSON stays JSON."""
        if self._added is not _added:
            self._added = _added
            self._add(_added)
        for form in self._forms:
            # Text that looks like a number may be a JSON number. A number has to stay one.
            line = line.replace(form, "1" if self._as_json and not form.strip("0123456789.eE+-") else MASK)
        return mask_keys(line)
