"""The bytes of a message → a Task, or MalformedTask. Pure.

A task is what the gateway publishes (spec 1.1). Nothing here trusts it: it may be rubbish, and `endpoint` may be an
attempt to make the node speak to somebody else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from workernode.errors import SHORTEST_SECRET
from workernode.record import mask_keys

MAX_ID = 256  # characters; the gateway's are uuids of 36
MOST_HEADERS = 100  # that are looked at for secrets, and values of each: what is more is no request of anybody
_SECRET_HEADER = re.compile(r"(?i)auth|cookie|credential|key|password|secret|session|signature|token")
SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}  # scheme → over TLS?
# Labels of 1 to 63 characters: for others name resolution raises UnicodeError instead of OSError.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\]")
_TARGET = re.compile(r"[!-~]*")  # what may stand in a request line: printable ASCII without a space


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an answer goes."""

    secure: bool  # over TLS
    host: str  # without brackets
    port: int
    target: str  # path and query, as they stand in the request line

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What connections can be shared by."""
        return (self.secure, self.host, self.port)

    @property
    def authority(self) -> str:
        """`host:port` as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Task:
    """One request of one client."""

    request_id: str
    stream: bool  # how the gateway waits; it rules over `data.stream`
    endpoint: Endpoint
    data: dict[str, Any]  # the client's OpenAI chat request, untouched
    headers: dict[str, Any]  # the client's HTTP headers; may hold secrets: never logged, forwarded or recorded whole


class MalformedTask(ValueError):
    """The message is not a task. Holds what could be read, so that its client can be told.

    Attributes: reason (a sentence), request_id ("" where unreadable), endpoint (None where unusable), stream.
    """

    def __init__(
        self, reason: str, request_id: str = "", endpoint: Endpoint | None = None, stream: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.request_id = request_id
        self.endpoint = endpoint
        self.stream = stream


def parse(payload: bytes, reply_hosts: Sequence[str] = ()) -> Task:
    """Return the task that the message's bytes hold.

    Args:
        payload: UTF-8 JSON (spec 1.1).
        reply_hosts: globs; where there are any, the endpoint's host must match one (spec 7).

    Raises:
        MalformedTask: with the reason, for the dead-letter topic, and what could be read of it, for its client.
    """
    try:
        message = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise MalformedTask(f"not UTF-8: {exc.reason} at byte {exc.start}") from None
    except RecursionError:
        raise MalformedTask("JSON nested too deep") from None
    except ValueError as exc:
        raise MalformedTask(f"not JSON: {exc}") from None
    if not isinstance(message, dict):
        raise MalformedTask(f"not a JSON object but {_kind(message)}")
    return _read(message, reply_hosts)


def envelope_id(payload: bytes) -> str:
    """Return the request id of a message without judging the rest; "" where none can be read."""
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return ""
    request_id = message.get("request_id") if isinstance(message, dict) else None
    if isinstance(request_id, str) and 0 < len(request_id) <= MAX_ID and request_id.isprintable():
        return request_id
    return ""


def without_secrets(payload: bytes) -> bytes:
    """Return a message as it may be kept: `***` for what the client's headers hold of keys, cookies and the like.

    All else stays byte for byte, so that what was wrong with it can still be seen.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return mask_keys(payload.decode("latin-1")).encode("latin-1")  # latin-1: any bytes, and back again
    metadata = message.get("metadata") if isinstance(message, dict) else None
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    for name, values in islice(headers.items(), MOST_HEADERS) if isinstance(headers, dict) else ():
        if _SECRET_HEADER.search(name):
            for value in values[:MOST_HEADERS] if isinstance(values, list) else [values]:
                payload = _without(payload, value)
    return payload


def _without(payload: bytes, value: object) -> bytes:
    """Take out a text, however JSON writes it."""
    if isinstance(value, str) and len(value) >= SHORTEST_SECRET:
        for ascii_only in (True, False):
            written = json.dumps(value, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogatepass")
            payload = payload.replace(written, b"***")
    return payload


def _read(message: dict[str, Any], reply_hosts: Sequence[str]) -> Task:
    faults: list[str] = []
    request_id, stream, data = message.get("request_id"), message.get("stream"), message.get("data")
    if not isinstance(request_id, str) or not 0 < len(request_id) <= MAX_ID or not request_id.isprintable():
        faults.append(f"request_id must be a printable string of 1 to {MAX_ID} characters")
        request_id = ""
    if not isinstance(stream, bool):
        faults.append(f"stream must be true or false, not {_kind(stream)}")
        # The gateway's two doors tell how it waits, where the task does not.
        stream = str(message.get("endpoint")).rstrip("/").endswith("/ws")
    if not isinstance(data, dict):
        faults.append(f"data must be the chat request, an object, not {_kind(data)}")
    endpoint = None
    try:
        endpoint = read_endpoint(message.get("endpoint"), reply_hosts)
    except ValueError as exc:
        faults.append(str(exc))
    if faults or endpoint is None:
        raise MalformedTask("; ".join(faults), request_id, endpoint, stream)
    metadata = message.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    assert isinstance(data, dict)
    return Task(request_id, stream, endpoint, data, headers if isinstance(headers, dict) else {})


def read_endpoint(value: object, reply_hosts: Sequence[str] = ()) -> Endpoint:
    """Return where the answer goes; `http` and `ws` are the same place, as are `https` and `wss` (spec 1.1).

    Raises:
        ValueError: a sentence that says why no answer may go there. It never repeats the address.
    """
    if not isinstance(value, str):
        raise ValueError(f"endpoint must be an address, not {_kind(value)}")
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise ValueError("endpoint holds characters that no address has")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("endpoint is not an address") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("endpoint must begin with http://, https://, ws:// or wss://")
    if "@" in parts.netloc:
        raise ValueError("endpoint must not hold credentials")
    host = parts.hostname or ""
    written = f"[{host}]" if ":" in host else host
    if not _HOST.fullmatch(written) or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("endpoint must name a host, and a port between 1 and 65535 where there is one")
    if reply_hosts and not any(fnmatchcase(host, glob.lower()) for glob in reply_hosts):
        raise ValueError("endpoint's host is not among REPLY_HOSTS")
    secure = SCHEMES[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        raise ValueError("endpoint's path holds characters that no path has")
    return Endpoint(secure, host, port or (443 if secure else 80), target)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _kind(value: object) -> str:
    names = {type(None): "null or missing", bool: "a boolean", str: "a string", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")
