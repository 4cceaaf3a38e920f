"""The bytes of a message → a Task, or MalformedTask. Pure.

The gateway publishes tasks (spec 1.1). Nothing here trusts a message: it may be anything, and its `endpoint` may be an
attempt to make the node send requests to somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from workernode.net.origin import Origin
from workernode.strict_json import SLOW_DECODER, loads

MAX_ID = 256  # characters; the gateway's are uuids of 36
LONGEST_KEPT = 256  # characters of an address that is read once and remembered
SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}  # scheme → over TLS?
# Labels of 1 to 63 characters: for others name resolution raises UnicodeError instead of OSError.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = rf"(?=[^:]{{1,253}}(:|$)){_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\]"
_PLACE = re.compile(rf"({_HOST})(:[0-9]{{1,5}})?")
_MEMBER = re.compile(r'[ \t\r\n]*([{,])[ \t\r\n]*"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*')  # up to its value
_TARGET = re.compile(r"[!-~]*")  # what may stand in a request line: printable ASCII without a space


class _Envelope(msgspec.Struct):
    request_id: Any = None


class _Metadata(msgspec.Struct):
    metadata: Any = None


class _ReplyTo(msgspec.Struct):
    endpoint: Any = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_METADATA = msgspec.json.Decoder(_Metadata)
_REPLY_TO = msgspec.json.Decoder(_ReplyTo)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an answer goes."""

    secure: bool  # over TLS
    host: str  # without brackets
    port: int
    target: str  # path and query, as they stand in the request line

    @property
    def origin(self) -> Origin:
        """The server; endpoints of the same one can share connections."""
        return Origin(self.secure, self.host, self.port)

    @property
    def server(self) -> str:
        """The server in words, without the path."""
        return f"{'https' if self.secure else 'http'}://{self.origin.authority}"


@dataclass(frozen=True, slots=True)
class Task:
    """One request of one client."""

    request_id: str
    stream: bool  # how the gateway waits for the answer, whatever `data.stream` says
    endpoint: Endpoint
    data: dict[str, Any]  # the client's OpenAI chat request, untouched
    headers: dict[str, Any]  # the client's HTTP headers; may hold secrets: never logged, forwarded or recorded whole


class MalformedTask(ValueError):
    """The message is not a task. Holds what could be read of it, so that its client can get an error.

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
        MalformedTask: with the reason for the dead letter, and with what its client can be reached by.
    """
    try:
        message = loads(payload)
    except UnicodeDecodeError as exc:
        raise MalformedTask(f"not UTF-8: {exc.reason} at byte {exc.start}") from None
    except RecursionError:
        raise _unreadable("JSON nested too deep", payload.decode(), reply_hosts) from None
    except ValueError as exc:
        raise _unreadable(f"not JSON: {exc}", payload.decode(), reply_hosts) from None
    if not isinstance(message, dict):
        raise MalformedTask(f"not a JSON object but {_kind(message)}")
    return _read(message, reply_hosts)


def envelope_id(payload: bytes) -> str:
    """Return the request id of a message, whatever else the message holds; "" where none can be read.

    The supervisor calls this for each message: only the id is made into an object, which takes 0.2 ms a MB.
    """
    try:
        return _usable_id(_ENVELOPE.decode(payload).request_id)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass  # it may still be JSON (workernode/strict_json.py)
    try:
        message = loads(payload)
    except (ValueError, RecursionError):
        return ""
    return _usable_id(message.get("request_id")) if isinstance(message, dict) else ""


def envelope_server(payload: bytes) -> str:
    """Return the gateway's server (Endpoint.server) of a message; "" where the message names none that can be used."""
    try:
        return read_endpoint(_REPLY_TO.decode(payload).endpoint).server
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def envelope_headers(payload: bytes) -> dict[str, Any]:
    """Return the client's HTTP headers of a message, which may hold secrets; {} where none can be read."""
    try:
        metadata = _METADATA.decode(payload).metadata
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    return headers if isinstance(headers, dict) else {}


def _read(message: dict[str, Any], reply_hosts: Sequence[str]) -> Task:
    faults: list[str] = []
    request_id, data = _usable_id(message.get("request_id")), message.get("data")
    if not request_id:
        faults.append(f"request_id must be a printable string of 1 to {MAX_ID} characters")
    if not isinstance(message.get("stream"), bool):
        faults.append(f"stream must be true or false, not {_kind(message.get('stream'))}")
    if not isinstance(data, dict):
        faults.append(f"data must be the chat request, an object, not {_kind(data)}")
    endpoint = None
    try:
        endpoint = read_endpoint(message.get("endpoint"), reply_hosts)
    except ValueError as exc:
        faults.append(str(exc))
    if faults or endpoint is None:
        raise MalformedTask("; ".join(faults), request_id, endpoint, _is_stream(message))
    metadata = message.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    assert isinstance(data, dict)
    return Task(request_id, message["stream"], endpoint, data, headers if isinstance(headers, dict) else {})


def _unreadable(reason: str, text: str, reply_hosts: Sequence[str]) -> MalformedTask:
    """The fault of a message whose JSON cannot be parsed to its end, with what could be read of it."""
    members = _first_members(text)
    try:
        endpoint = read_endpoint(members.get("endpoint"), reply_hosts)
    except ValueError:
        endpoint = None
    return MalformedTask(reason, _usable_id(members.get("request_id")), endpoint, _is_stream(members))


def _first_members(text: str) -> dict[str, Any]:
    """The members of an object before the one that cannot be parsed. The gateway writes id, stream and endpoint before
    `data`, which is the client's and may hold anything.
    """
    members: dict[str, Any] = {}
    at = 0
    try:
        while (found := _MEMBER.match(text, at)) and (found[1] == "{") is (at == 0):
            members[found[2]], at = SLOW_DECODER.raw_decode(text, found.end())
    except (ValueError, RecursionError):
        pass  # this member cannot be parsed
    return members


def _usable_id(request_id: object) -> str:
    """The request id; "" where it is missing or cannot be used."""
    if isinstance(request_id, str) and 0 < len(request_id) <= MAX_ID and request_id.isprintable():
        return request_id
    return ""


def _is_stream(message: dict[str, Any]) -> bool:
    """Return how the gateway waits: by the task's own field, else by the path of its endpoint."""
    stream = message.get("stream")
    return stream if isinstance(stream, bool) else str(message.get("endpoint")).rstrip("/").endswith("/ws")


def read_endpoint(value: object, reply_hosts: Sequence[str] = ()) -> Endpoint:
    """Return where the answer goes. `ws` is the same server as `http`, `wss` the same as `https` (spec 1.1).

    Raises:
        ValueError: why no answer can go there, in a sentence that never repeats the address.
    """
    if not isinstance(value, str):
        raise ValueError(f"endpoint must be an address, not {_kind(value)}")
    if len(value) > LONGEST_KEPT:
        return _endpoint_of(value, tuple(reply_hosts))
    return _kept_endpoint_of(value, tuple(reply_hosts))


def _endpoint_of(address: str, reply_hosts: tuple[str, ...]) -> Endpoint:
    if not address.isascii() or not address.isprintable() or " " in address or "\\" in address:
        raise ValueError("endpoint holds characters that no address has")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ValueError("endpoint is not an address") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("endpoint must begin with http://, https://, ws:// or wss://")
    if "@" in parts.netloc:
        raise ValueError("endpoint must not hold credentials")
    host = parts.hostname or ""
    if not _PLACE.fullmatch(parts.netloc) or port == 0:
        raise ValueError("endpoint must name a host, and a port between 1 and 65535 where there is one")
    if reply_hosts and not any(fnmatchcase(host, glob.lower()) for glob in reply_hosts):
        raise ValueError("endpoint's host is not among REPLY_HOSTS")
    secure = SCHEMES[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        raise ValueError("endpoint's path holds characters that no path has")
    return Endpoint(secure, host, port or (443 if secure else 80), target)


# Nearly all tasks name one of a few gateways, and reading an address takes 2.2 µs.
_kept_endpoint_of = lru_cache(maxsize=64)(_endpoint_of)


def _kind(value: object) -> str:
    names = {type(None): "null or missing", bool: "a boolean", str: "a string", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")
