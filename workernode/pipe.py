"""Messages between the supervisor and a worker, over pipes: each goes whole, whoever is slow or killed meanwhile.

A message is MessagePack by msgspec, four times faster than pickle. What MessagePack cannot hold is pickled: an integer
over 64 bits, half a surrogate pair.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, Generic, TypeVar

import msgspec

from workernode.protocol import (
    AnswerBegun,
    CallFailed,
    ClaimAsked,
    Granted,
    Hold,
    Job,
    Outcome,
    RateLimitReport,
    Ready,
    Stop,
    Target,
)

HEAD = struct.Struct("!IB")  # before each message: the number of bytes that follow, and the kind of message
PIECE = 65536  # bytes read at once

# The kind of a message is its place in this list.
_TYPES: list[Any] = [
    Job, Granted, Hold, Target, Stop, Ready, RateLimitReport, CallFailed, AnswerBegun, ClaimAsked, Outcome
]  # fmt: skip
_KINDS = {each: kind for kind, each in enumerate(_TYPES)}
_PICKLED = len(_TYPES)
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS = [msgspec.msgpack.Decoder(each) for each in _TYPES]

T = TypeVar("T")


def pack(message: object, *, check: bool = False) -> bytes:
    """Return a message of workernode/protocol.py as it goes through a pipe.

    Args:
        check: make sure that it can be read again. For messages with values from outside, because the supervisor's one
            thread must not fail over one of them.
    """
    kind = _KINDS[type(message)]
    try:
        body = _ENCODER.encode(message)
        if check:
            _DECODERS[kind].decode(body)
    except (msgspec.MsgspecError, OverflowError, TypeError, ValueError, RecursionError):
        kind, body = _PICKLED, pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEAD.pack(len(body), kind) + body


def _unpack(kind: int, body: memoryview) -> Any:
    if kind == _PICKLED:
        return pickle.loads(body)  # noqa: S301  # from our own process
    return _DECODERS[kind].decode(body)


class Unpacker(Generic[T]):
    """The reading end of a pipe: pieces of bytes in, messages out. It never waits for the rest of a message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[T]:
        """Return the messages that are whole with this piece."""
        buffer = self._buffer
        buffer += piece
        messages: list[T] = []
        start = 0
        while len(buffer) - start >= HEAD.size:
            size, kind = HEAD.unpack_from(buffer, start)
            end = start + HEAD.size + size
            if end > len(buffer):
                break
            with memoryview(buffer)[start + HEAD.size : end] as body:
                messages.append(_unpack(kind, body))
            start = end
        del buffer[:start]
        return messages
