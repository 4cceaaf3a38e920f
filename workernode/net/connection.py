"""One TCP or TLS connection whose every wait has an end.

A blocking read that honours three things at once: a deadline (one moment on the monotonic clock), the longest silence,
and a second connection that must be looked after meanwhile (the client's, while upstream is silent). Knows no protocol.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from typing import Protocol

from workernode.net import dial
from workernode.net.errors import ConnectTimeout, Silence
from workernode.net.origin import Origin
from workernode.net.proxy import Proxy
from workernode.net.tunnel import open_tunnel

# Bytes of one read: it may hold several small chunks of a stream, which then leave in one write.
PIECE = 65536


# Fields of Linux's `struct tcp_info` (linux/tcp.h, since 4.19): offsets of the bytes that the peer acknowledged
# (with the SYN as one), that were sent, and that were sent again.
TCP_INFO_BYTES = 216
ACKED_AT, SENT_AT = 120, 200


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
    """A connected socket. Owned by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._poll = select.poll()
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
        try:
            server = origin if proxy is None else proxy
            sock = dial.connect(server.host, server.port, timeout)
        except TimeoutError as exc:
            raise ConnectTimeout(str(exc)) from None
        try:
            sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if origin.secure:
                assert tls is not None
                if proxy is not None:
                    open_tunnel(sock, proxy, origin, timeout)
                sock = tls.wrap_socket(sock, server_hostname=origin.host)
        except TimeoutError as exc:
            sock.close()
            raise ConnectTimeout(str(exc)) from None
        except BaseException:
            sock.close()
            raise
        return cls(sock)

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

    def receive(self) -> bytes | None:
        """Return what is there, waiting for it: b"" at the end, None if it is not `patient` and nothing is there.

        Raises:
            TimeoutError: the deadline is over. Silence: the longest silence is over.
            OSError: the connection broke.
        """
        quiet_at = None
        if self.patient and time.monotonic() >= self.deadline:  # a peer that sends without a pause never makes us wait
            raise TimeoutError("no time is left")
        if self._asked and self.patient and not (self._decrypted and self._decrypted()):
            quiet_at = time.monotonic() + self.silence
            self._wait(select.POLLIN, quiet_at)
        self._asked = False
        while True:
            try:
                return self._sock.recv(PIECE)
            except (BlockingIOError, ssl.SSLWantReadError):
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
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
                continue
            except (BlockingIOError, ssl.SSLWantWriteError):
                wanted = select.POLLOUT
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            self._wait(wanted, float("inf"))

    def stale(self) -> bool:
        """True if a connection that was kept cannot be used again: it was closed, or bytes came that nobody asked
        for.
        """
        self._poll.register(self._fd, select.POLLIN)
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close it; twice is legal."""
        self._sock.close()

    def _wait(self, wanted: int, quiet_at: float) -> None:
        """Wait until the connection is ready, looking after `watch` meanwhile."""
        watch, watched = self.watch, -1
        self._poll.register(self._fd, wanted)
        try:
            while True:
                now = time.monotonic()
                end = min(self.deadline, quiet_at)
                if now >= end:
                    if end == self.deadline:
                        raise TimeoutError("no time is left")
                    raise Silence(f"silent for {self.silence:g} s")
                until = end
                if watch:
                    if now >= watch.due:
                        watch.tick()
                    until = min(end, watch.due)
                    watched = self._follow(watch.fileno(), watched)  # the tick may have connected it
                milliseconds = None if until == float("inf") else max(0, until - now) * 1000 + 1
                ready = self._poll.poll(milliseconds)
                if watch and any(fd == watched for fd, _ in ready):
                    watch.readable()
                if any(fd == self._fd for fd, _ in ready):
                    return
        finally:
            self._follow(-1, watched)

    def _follow(self, fd: int, before: int) -> int:
        """Watch this file descriptor instead of the one before; -1 is none. Returns it."""
        if fd != before:
            if before >= 0:
                self._poll.unregister(before)
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)
        return fd
