"""One WebSocket: text frames out, pings in both directions. Knows nothing of tasks.

The protocol is the sans-I/O one of the `websockets` library; `Wire` does the waiting
(docs/decisions/0001-websockets-sans-io.md).
"""

from __future__ import annotations

import os
import ssl
import struct
import time
from collections.abc import Iterable
from typing import Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import CONNECTING, OPEN
from websockets.uri import WebSocketURI

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library was installed without its compiled part
    from websockets.utils import apply_mask

from workernode.net.connection import Wire
from workernode.net.handover import Handover, Note
from workernode.net.origin import Origin

# A server whose reader is blocked for ever, and one that is slow, look the same for a while.
SEND_TIME = 60.0  # seconds that one send may take
CLOSE_TIME = 1.0  # seconds for the close frame; the server's reader may be blocked
MAX_INCOMING = 65536  # bytes of one message; none is expected
TEXT_AND_LAST, MASKED = 0x81, 0x80  # bits of a frame's head
MOST_READS = 16  # at once: a server that never stops sending must not hold a task


def text_frames(texts: list[bytes]) -> list[bytes]:
    """Return each text as a masked frame (RFC 6455, 5.2).

    The library's own way, an object for each frame and a system call for each mask, takes four times as long, and there
    is a frame for each chunk of each stream.
    """
    masks = os.urandom(4 * len(texts))
    return [_text_frame(text, masks[4 * place : 4 * place + 4]) for place, text in enumerate(texts)]


def _text_frame(text: bytes, mask: bytes) -> bytes:
    size = len(text)
    if size < 126:
        head = struct.pack("!BB", TEXT_AND_LAST, MASKED | size)
    elif size < 65536:
        head = struct.pack("!BBH", TEXT_AND_LAST, MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", TEXT_AND_LAST, MASKED | 127, size)
    return b"".join((head, mask, apply_mask(text, mask)))


class Saver(Note, Protocol):
    """Notes what leaves, in memory that outlives the process."""

    handover: Handover


class HandshakeRefused(ConnectionError):
    """The server answers, but not with a WebSocket.

    Attributes: status (of its HTTP answer; 0 if it was no HTTP).
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}" if status else "no WebSocket")
        self.status = status


class WebSocket:
    """A connected WebSocket. Owned by one task, or thread, at a time."""

    def __init__(self, wire: Wire, protocol: ClientProtocol) -> None:
        self._wire = wire
        self._protocol = protocol
        self._pings = 0
        self._awaited: bytes | None = None  # the ping that has no answer yet

    @classmethod
    def connect(cls, origin: Origin, target: str, tls: ssl.SSLContext | None, timeout: float) -> WebSocket:
        """Return an open WebSocket.

        Args:
            timeout: seconds for the connection, and again for the handshake.

        Raises:
            HandshakeRefused: the server answers, but not with a WebSocket; redirects are not followed.
            OSError: it cannot be reached.
        """
        secure, host, port = origin
        path, _, query = target.partition("?")
        wire = Wire.connect(origin, timeout, tls)
        try:
            protocol = ClientProtocol(WebSocketURI(secure, host, port, path, query), max_size=MAX_INCOMING)
            socket = cls(wire, protocol)
            protocol.send_request(protocol.connect())
            wire.deadline = time.monotonic() + timeout
            wire.sendall(b"".join(protocol.data_to_send()))
            while protocol.state is CONNECTING and protocol.handshake_exc is None:
                data = wire.receive()
                if data:
                    protocol.receive_data(data)
                else:
                    protocol.receive_eof()  # which may be what ends a refusal
            refusal = protocol.handshake_exc
            if refusal is not None:
                raise HandshakeRefused(refusal.response.status_code if isinstance(refusal, InvalidStatus) else 0)
            if protocol.state is not OPEN:
                raise ConnectionResetError("closed as soon as it was open")
            socket._flush(timeout)  # the pong to a ping that came with the handshake
        except BaseException:
            wire.close()
            raise
        return socket

    def fileno(self) -> int:
        return self._wire.fileno()

    def send(self, texts: Iterable[bytes], ping: bool = False, saver: Saver | None = None) -> None:
        """Send each text as a frame of its own, all in one write; with `ping`, a ping behind them.

        Args:
            saver: where it is noted what leaves (Wire.hand_over).

        Raises:
            TimeoutError: nobody read for SEND_TIME. OSError: the connection broke.
        """
        if self._protocol.state is not OPEN:
            raise ConnectionResetError("the connection is closed")
        frames = text_frames(list(texts))
        if ping:
            self._queue_ping()
        self._flush(SEND_TIME, frames, saver)

    def ping(self) -> None:
        """Send a ping; `answered` shows whether its pong came. Raises as `send` does."""
        self._queue_ping()
        self._flush(SEND_TIME)

    @property
    def answered(self) -> bool:
        """Whether the last ping was answered: the server has read everything that was sent before it."""
        return self._awaited is None

    def read(self) -> bool:
        """Read what has arrived, without waiting; return False once the server has closed the connection."""
        if not self._feed():
            return False
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.PONG and bytes(event.data) == self._awaited:
                self._awaited = None
        if self._protocol.state is not OPEN:
            return False
        try:
            self._flush(CLOSE_TIME)  # pongs
        except OSError:
            return False
        return True

    def _feed(self) -> bool:
        """Feed the protocol with all that has arrived; False at the end of the connection, which may follow a pong."""
        self._wire.patient = False
        try:
            for _ in range(MOST_READS):
                data = self._wire.receive()
                if not data:
                    return data is None
                self._protocol.receive_data(data)
        except OSError:
            return False
        finally:
            self._wire.patient = True
        return True

    def close(self) -> None:
        """Send a close frame, if the server reads, and close the connection."""
        try:
            if self._protocol.state is OPEN:
                self._protocol.send_close(1000)
                self._flush(CLOSE_TIME)
        except OSError:
            pass  # the connection is broken already
        finally:
            self._wire.close()

    def drop_undelivered(self) -> None:
        """See Wire."""
        self._wire.drop_undelivered()

    def _queue_ping(self) -> None:
        self._pings += 1
        self._awaited = b"%d" % self._pings
        self._protocol.send_ping(self._awaited)

    def _flush(self, limit: float, frames: Iterable[bytes] = (), saver: Saver | None = None) -> None:
        data = b"".join([*frames, *self._protocol.data_to_send()])
        if data:
            self._wire.deadline = time.monotonic() + limit
            if saver is None:
                self._wire.sendall(data)
            else:
                self._wire.hand_over(data, saver.handover, saver)
