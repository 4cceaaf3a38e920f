"""The one place that waits: for sockets, for a moment, for work on another thread.

A thread waits in the operating system. A task of a worker process is a greenlet: while it waits, its hub (hub.py) runs
the other tasks of the process. Who waits calls the functions here and need not know which of the two it is.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")

READ, WRITE = select.POLLIN, select.POLLOUT
Interest: TypeAlias = Sequence[tuple[int, int]]  # file descriptors, each with READ or WRITE
FOREVER = float("inf")


class Waiter(Protocol):
    """A way to wait."""

    def wait(self, interest: Interest, until: float) -> Sequence[int]:
        """Wait until one of the file descriptors is ready, or until a moment (monotonic).

        It may end early and without a reason: who waits checks for what it has waited.

        Returns:
            The file descriptors that are ready, those that failed among them.
        """

    def forget(self, fd: int) -> None:
        """Wait for this file descriptor no more: it is about to be closed, or it is that of a new connection."""

    def give_way(self) -> None:
        """Let others run, if the caller has run for long without a wait."""

    def waker(self) -> Callable[[], None] | None:
        """Return what ends the caller's present wait, from any thread; None where the caller is a thread."""


class Threads:
    """Every thread by itself waits in the operating system."""

    def wait(self, interest: Interest, until: float) -> Sequence[int]:
        """See Waiter."""
        poll = select.poll()
        for fd, events in interest:
            poll.register(fd, events)
        milliseconds = None if until == FOREVER else max(0.0, until - time.monotonic()) * 1000 + 1
        return [fd for fd, _ in poll.poll(milliseconds)]

    def forget(self, fd: int) -> None:
        """See Waiter."""

    def give_way(self) -> None:
        """See Waiter."""

    def waker(self) -> None:
        """See Waiter."""


class _Here(threading.local):
    waiter: Waiter = Threads()


_here = _Here()


def here() -> Waiter:
    """Return the way to wait in this thread."""
    return _here.waiter


def wait_by(waiter: Waiter) -> None:
    """From now on this thread waits in another way."""
    _here.waiter = waiter


def sleep(seconds: float) -> None:
    """Wait."""
    waiter = here()
    if isinstance(waiter, Threads):
        time.sleep(seconds)
        return
    until = time.monotonic() + seconds
    waiter.wait((), until)
    while time.monotonic() < until:
        waiter.wait((), until)


class Event:
    """Something that happens once. Any thread may set it, and many may wait for it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._wakers: list[Callable[[], None]] = []

    def set(self) -> None:
        """End the waits."""
        self._event.set()
        for wake in tuple(self._wakers):
            wake()

    def wait(self, until: float) -> bool:
        """Wait until it is set, or until a moment (monotonic); return whether it is set."""
        waiter = here()
        wake = waiter.waker()
        if wake is None:
            return self._event.wait(None if until == FOREVER else max(0.0, until - time.monotonic()))
        self._wakers.append(wake)  # before the check: what is set after it wakes
        try:
            while not self._event.is_set() and time.monotonic() < until:
                waiter.wait((), until)
        finally:
            self._wakers.remove(wake)
        return self._event.is_set()


def call(func: Callable[[], T]) -> T:
    """Return what `func` returns, which may wait in the operating system (for a file, say): others run meanwhile.

    Raises:
        Exception: what `func` raises.
    """
    if here().waker() is None:
        return func()
    returned: list[T] = []
    failed: list[BaseException] = []
    done = Event()

    def run() -> None:
        try:
            returned.append(func())
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="call", daemon=True).start()
    done.wait(FOREVER)
    if failed:
        raise failed.pop()
    return returned.pop()
