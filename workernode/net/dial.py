"""Opens TCP connections: a name look-up with a time limit, and several addresses of a name at once (RFC 8305).

A dead first address costs a quarter of a second instead of the whole time limit. The address that answered is tried
first the next time.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, TypeAlias

from workernode.net.waiting import WRITE, Event, here

ATTEMPT_DELAY_S = 0.25  # before the next address is tried as well (RFC 8305, 5: 250 ms)
MOST_REMEMBERED = 1000  # names whose last address is remembered

Address: TypeAlias = tuple[int, Any]  # family, and the address as `socket.connect` wants it
Place: TypeAlias = tuple[str, int]  # host and port
Lookup: TypeAlias = Callable[[str, int], Sequence[Address]]


def look_up(host: str, port: int) -> list[Address]:
    """Ask the system for the addresses of a name; may take as long as the system's resolver likes.

    Raises:
        OSError: there are none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # no DNS name: an empty label, one over 63 characters
        raise socket.gaierror(socket.EAI_NONAME, "the name cannot be resolved") from None
    return [(family, address) for family, _, _, _, address in found]


class _RunningLookup:
    """A look-up in a thread of its own, and those who wait for it."""

    def __init__(self) -> None:
        self.is_done = Event()
        self.addresses: Sequence[Address] = ()
        self.error: OSError | None = None


class Dialer:
    """Opens connections. All tasks and threads of a process share one.

    Args:
        lookup: the system's resolver, or a fake of it.
    """

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._running: dict[Place, _RunningLookup] = {}
        self._last_good: dict[Place, Address] = {}

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connected, blocking socket.

        Args:
            timeout: seconds for the look-up and the connection together.

        Raises:
            OSError: the name has no address, or none of them can be connected to; the error is the first one's.
            TimeoutError: it took too long.
        """
        deadline = time.monotonic() + timeout
        place = host, port
        addresses = _interleaved(self._resolve(place, deadline))
        good = self._last_good.get(place)
        if good in addresses:
            addresses.sort(key=lambda address: address != good)
        sock, address = _race(addresses, deadline)
        if len(addresses) > 1:
            if len(self._last_good) >= MOST_REMEMBERED:
                self._last_good.clear()
            self._last_good[place] = address
        sock.setblocking(True)
        return sock

    def _resolve(self, place: Place, deadline: float) -> Sequence[Address]:
        if (address := _literal(*place)) is not None:
            return [address]
        with self._lock:
            running = self._running.get(place)
            if running is None:
                running = self._running[place] = _RunningLookup()
                # One thread for all who wait for this name: a resolver that hangs cannot use up threads.
                threading.Thread(target=self._look_up, args=(place, running), name="look-up", daemon=True).start()
        if not running.is_done.wait(deadline):
            raise TimeoutError(f"the name look-up of {place[0]} took too long")
        if running.error is not None:
            raise type(running.error)(*running.error.args)  # an exception of its own for each who waits
        return running.addresses

    def _look_up(self, place: Place, running: _RunningLookup) -> None:
        try:
            running.addresses = self._lookup(*place)
        except OSError as error:
            running.error = error
        finally:
            with self._lock:
                del self._running[place]
            running.is_done.set()


def _literal(host: str, port: int) -> Address | None:
    """Return the address if the host is an IP address already."""
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return found[0][0], found[0][4]
    return None


def _interleaved(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with their families in turn, beginning with the family that the system prefers."""
    if not addresses:
        raise OSError(errno.EHOSTUNREACH, "the name has no address")
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for pair in zip_longest(first, others) for each in pair if each is not None]


def _race(addresses: Sequence[Address], deadline: float) -> tuple[socket.socket, Address]:
    """Return the first connection that is established.

    The next address is tried ATTEMPT_DELAY_S after the one before, or as soon as that one has failed.
    """
    waiting = list(addresses)
    running: dict[int, tuple[socket.socket, Address]] = {}
    first_error: OSError | None = None
    waiter = here()
    next_start = 0.0
    try:
        while waiting or running:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError("timed out")
            if waiting and (now >= next_start or not running):
                next_start = now + ATTEMPT_DELAY_S
                try:
                    sock, address = _begin(waiting.pop(0))
                except OSError as error:
                    first_error, next_start = first_error or error, now
                    continue
                waiter.forget(sock.fileno())
                running[sock.fileno()] = sock, address
            until = min(deadline, next_start) if waiting else deadline
            for fd in waiter.wait([(fd, WRITE) for fd in running], until):
                sock, address = running.pop(fd)
                waiter.forget(fd)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return sock, address
                sock.close()
                first_error, next_start = first_error or OSError(code, os.strerror(code)), 0.0
        assert first_error is not None
        raise first_error
    finally:
        for fd, (sock, _) in running.items():
            waiter.forget(fd)
            sock.close()


def _begin(address: Address) -> tuple[socket.socket, Address]:
    """Start to connect, without waiting."""
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock, address


connect = Dialer().connect  # for the whole process
