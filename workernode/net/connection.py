"""One TCP or TLS connection whose every wait has an end.

A blocking read that honours three things at once: a deadline (one moment on the monotonic clock), the longest silence,
and a second connection that must be looked after meanwhile (the client's, while upstream is silent). Knows no protocol.
"""

from __future__ import annotations

import ctypes
import fcntl
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from workernode.net import dial
from workernode.net.errors import ConnectTimeout, Silence
from workernode.net.handover import Handover, Note
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy
from workernode.net.tunnel import open_tunnel
from workernode.net.waiting import READ, WRITE, here

# Bytes of one read: it may hold several small chunks of a stream, which then leave in one write.
PIECE = 65536


# Fields of Linux's `struct tcp_info` (linux/tcp.h, since 4.19): offsets of the bytes that the peer acknowledged
# (with the SYN as one), that were sent, and that were sent again.
TCP_INFO_BYTES = 216
ACKED_AT, SENT_AT = 120, 200
# Linux's SIOCOUTQ (linux/sockios.h), and an address of the family AF_UNSPEC: connecting to it resets a connection.
BYTES_NOT_ACKED = 0x5411
NOWHERE = bytes(16)


class Watch(Protocol):
    """Somebody else's connection, looked after while a Wire waits."""

    due: float  # monotonic: when `tick` wants to be called

    def fileno(self) -> int:
        """The file descriptor to watch; -1 for none now."""

    def readable(self) -> None:
        """Something arrived there. What it raises ends the wait."""

    def tick(self) -> None:
        """Its time has come. What it raises ends the wait."""


class Wire:
    """A connected socket. Owned by one task, or thread, at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._waiter = here()
        self._waiter.forget(self._fd)
        self.deadline = float("inf")  # monotonic; after it every wait ends in TimeoutError
        self.silence = float("inf")  # seconds: the longest wait for the next byte
        self.watch: Watch | None = None
        self.patient = True  # False: a read that would wait returns None at once
        self._asked = False  # something was sent since the last read: what comes next has not come yet
        self.handed_over = 0  # bytes of the last `sendall` that the kernel took
        self._decrypted = getattr(sock, "pending", None)  # TLS: bytes that have come already

    @classmethod
    def connect(cls, origin: Origin, timeout: float, tls: ssl.SSLContext | None, proxy: Proxy | None = None) -> Wire:
        """Return a connection to the origin, TLS verified where it is secure.

        Args:
            timeout: seconds for name look-up and connection, and again for the proxy's answer and the TLS handshake.
            proxy: connect through it. A secure connection gets a tunnel; over any other the proxy itself reads
                requests.

        Raises:
            ConnectTimeout, OSError: not resolved, refused, timed out, certificate not valid.
        """
        server = origin if proxy is None else proxy
        try:
            wire = cls(dial.connect(server.host, server.port, timeout))
            try:
                wire._open(origin, timeout, tls, proxy)
            except BaseException:
                wire.close()
                raise
        except TimeoutError as exc:
            raise ConnectTimeout(str(exc)) from None
        return wire

    def _open(self, origin: Origin, timeout: float, tls: ssl.SSLContext | None, proxy: Proxy | None) -> None:
        """Make the connection that was just opened one to the origin."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if origin.secure:
            assert tls is not None
            self.deadline = time.monotonic() + timeout
            if proxy is not None:
                open_tunnel(self, proxy, origin)
                self.deadline = time.monotonic() + timeout
            self._shake_hands(tls, origin.host)
            self.deadline = float("inf")

    def _shake_hands(self, tls: ssl.SSLContext, host: str) -> None:
        sock = tls.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
        self._sock, self._decrypted = sock, sock.pending
        while True:
            try:
                sock.do_handshake()
                break
            except ssl.SSLWantReadError:
                wanted = READ
            except ssl.SSLWantWriteError:
                wanted = WRITE
            self._wait(wanted, float("inf"))

    def fileno(self) -> int:
        return self._fd

    def limit(self, deadline: float, silence: float, watch: Watch | None) -> None:
        """Set the limits of the waits that follow: see the attributes of these names."""
        self.deadline, self.silence, self.watch, self.patient = deadline, silence, watch, True

    def may_have_been_read(self) -> bool:
        """Return whether the peer may have read any byte of the last `sendall`; True where that is not known.

        A peer's kernel acknowledges the bytes that it has put into the peer's receive buffer.
        """
        if not self.handed_over:
            return False
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except (OSError, AttributeError):  # a system without it
            return True
        if len(info) < TCP_INFO_BYTES:
            return True
        (acked,), (sent, sent_again) = struct.unpack_from("Q", info, ACKED_AT), struct.unpack_from("QQ", info, SENT_AT)
        return bool(sent - sent_again - (acked - 1) < self.handed_over)

    def receive(self, most: int = PIECE) -> bytes | None:
        """Return what is there, waiting for it: b"" at the end, None if it is not `patient` and nothing is there.

        Args:
            most: bytes.

        Raises:
            TimeoutError: the deadline is over. Silence: the longest silence is over.
            OSError: the connection broke.
        """
        quiet_at = None
        if self.patient and time.monotonic() >= self.deadline:  # a peer that sends without a pause never makes us wait
            raise TimeoutError("no time is left")
        if self._asked and self.patient and not (self._decrypted and self._decrypted()):
            quiet_at = time.monotonic() + self.silence
            self._wait(READ, quiet_at)
        self._asked = False
        self._waiter.give_way()
        while True:
            try:
                return self._sock.recv(most)
            except (BlockingIOError, ssl.SSLWantReadError):
                wanted = READ
            except ssl.SSLWantWriteError:
                wanted = WRITE
            if not self.patient:
                return None
            if quiet_at is None:
                quiet_at = time.monotonic() + self.silence
            self._wait(wanted, quiet_at)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it, waiting until the deadline where the other side is slow to read.

        Raises:
            TimeoutError: the deadline is over.
            OSError: the connection broke.
        """
        self._asked = True
        self.handed_over = 0
        view = memoryview(data)
        while view:
            try:
                count = self._sock.send(view)
                self.handed_over += count
                view = view[count:]
                if view:
                    self._waiter.give_way()
                continue
            except (BlockingIOError, ssl.SSLWantWriteError):
                wanted = WRITE
            except ssl.SSLWantReadError:
                wanted = READ
            self._wait(wanted, float("inf"))

    def hand_over(self, data: bytes, handover: Handover, note: Note) -> None:
        """Send all of it, so that what the kernel has taken is known even if this process is killed meanwhile.

        Where the connection is not plain TCP, or the other side is slow to read, that is not known for a moment.

        Raises:
            TimeoutError, OSError: as `sendall` has them.
        """
        self._asked = True
        if self._decrypted is None:
            data = handover.send(self._fd, data, note)
        else:
            note.begin(len(data), is_exact=False)
        if data:
            self.sendall(data)
        note.done()

    def drop_undelivered(self) -> bool:
        """Have the kernel send nothing more, if there is something that the peer's kernel has not acknowledged.

        The connection is reset then, and who waits for it gets an OSError. Another task than its owner may call this.

        Returns:
            Whether the connection was reset. Never on a system that is not Linux.
        """
        fd = self._sock.fileno()
        if sys.platform != "linux" or fd < 0:
            return False
        (waiting,) = struct.unpack("i", fcntl.ioctl(fd, BYTES_NOT_ACKED, bytes(4)))
        return bool(waiting and ctypes.CDLL(None).connect(fd, NOWHERE, len(NOWHERE)) == 0)

    def stale(self) -> bool:
        """True if a connection that was kept cannot be used again: it was closed, or bytes came that nobody asked
        for.
        """
        poll = select.poll()
        poll.register(self._fd, READ)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it; twice is legal."""
        self._waiter.forget(self._fd)
        self._sock.close()

    def _wait(self, wanted: int, quiet_at: float) -> None:
        """Wait until the connection is ready, looking after `watch` meanwhile."""
        watch, fd = self.watch, self._fd
        while True:
            now = time.monotonic()
            end = min(self.deadline, quiet_at)
            if now >= end:
                if end == self.deadline:
                    raise TimeoutError("no time is left")
                raise Silence(f"silent for {self.silence:g} s")
            if watch is None:
                ready = self._waiter.wait(((fd, wanted),), end)
            else:
                ready = self._wait_and_watch(watch, wanted, now, end)
            if fd in ready:
                return

    def _wait_and_watch(self, watch: Watch, wanted: int, now: float, end: float) -> Sequence[int]:
        if now >= watch.due:
            watch.tick()
        watched = watch.fileno()  # the tick may have connected it
        interest = [(self._fd, wanted)] if watched < 0 else [(self._fd, wanted), (watched, READ)]
        ready = self._waiter.wait(interest, min(end, watch.due))
        if watched in ready:
            watch.readable()
        return ready
