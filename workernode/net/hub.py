"""Runs the tasks of a worker process, all in one thread: each is a greenlet, and runs until it waits.

A plain task waits some six times. A change of threads at each of them costs system calls and 26 µs there and back, a
change of greenlets 1.2 µs and no system call (docs/decisions/0018-greenlets.md). The code of a task stays the same: it
calls, and where it waits (waiting.py), others run.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

from greenlet import getcurrent, greenlet

from workernode.net import waiting
from workernode.net.waiting import FOREVER, READ, Interest

# A task that never has to wait, because its peer is always faster, lets others run after so long: what Python's threads
# have as well (sys.getswitchinterval).
SLICE_S = 0.005
MOST_EVENTS = 1024  # taken from the kernel at once


class _Task(greenlet):
    """Runs one function after another: a greenlet is kept for the next, because a new one costs a piece of memory that
    is mapped and unmapped.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__(parent=hub.loop)
        self._hub = hub
        self.work: Callable[[], None] | None = None
        self.until = FOREVER  # monotonic: when its present wait ends
        self.timers = [FOREVER]  # monotonic: its entries among the hub's timers, the earliest last
        self.is_ready = False  # it is among the hub's ready tasks

    def run(self, _ready: Sequence[int]) -> None:
        """Called by greenlet."""
        while True:
            if self.work is not None:
                self.work()
                self.work = None
                self._hub.idle.append(self)
            self._hub.pause(self, FOREVER)


def _current() -> _Task:
    return cast("_Task", getcurrent())


class Hub:
    """The loop. Owned by the thread that calls `run`; only what `waker` returns may be called from other threads."""

    def __init__(self) -> None:
        self.loop = getcurrent()
        self.idle: list[_Task] = []
        self._epoll = select.epoll()
        self._registered: dict[int, int] = {}  # file descriptor → the events that epoll waits for
        self._new: set[int] = set()  # registered in this turn: older events of the same number are not theirs
        self._waits: dict[int, _Task] = {}  # file descriptor → who waits for it
        self._readers: dict[int, Callable[[], None]] = {}  # file descriptor → called when it is readable
        self._timers: list[tuple[float, int, _Task]] = []  # at most a few for each task
        self._timer_count = 0
        self._ready: deque[_Task] = deque()
        self._resumed_at = 0.0  # monotonic: when the task that runs was resumed
        self._is_stopped = False
        self._woken: deque[_Task] = deque()  # by other threads
        self._wake_reader, self._wake_writer = os.pipe()
        for fd in (self._wake_reader, self._wake_writer):
            os.set_blocking(fd, False)
        self.on_readable(self._wake_reader, self._take_woken)

    def run(self) -> None:
        """Run tasks until `stop` is called."""
        before = waiting.here()
        waiting.wait_by(self)
        try:
            while not self._is_stopped:
                self._turn()
        finally:
            waiting.wait_by(before)
            self._epoll.close()
            for fd in (self._wake_reader, self._wake_writer):
                os.close(fd)

    def stop(self) -> None:
        """End `run`; tasks that wait are resumed no more."""
        self._is_stopped = True

    def start(self, work: Callable[[], None]) -> None:
        """Have a task run `work`, which must not raise: its exception would end `run`."""
        task = self.idle.pop() if self.idle else _Task(self)
        task.work = work
        self._make_ready(task)

    def on_readable(self, fd: int, read: Callable[[], None]) -> None:
        """Call `read`, which must not wait, whenever the file descriptor is readable."""
        self._readers[fd] = read
        self._epoll.register(fd, READ)

    # --- what a task calls (waiting.Waiter) ---

    def wait(self, interest: Interest, until: float) -> Sequence[int]:
        """See Waiter."""
        task, waits, registered = _current(), self._waits, self._registered
        for fd, events in interest:
            waits[fd] = task
            if registered.get(fd) != events:
                self._register(fd, events)
        try:
            return self.pause(task, until)
        finally:
            for fd, _ in interest:
                del waits[fd]

    def pause(self, task: _Task, until: float) -> Sequence[int]:
        """Run others until a file descriptor of the task is ready, its time has come, or it is woken."""
        self._set_timer(task, until)
        ready: Sequence[int] = self.loop.switch()
        return ready

    def forget(self, fd: int) -> None:
        """See Waiter."""
        if self._registered.pop(fd, None) is not None:
            with suppress(OSError):  # it is closed already
                self._epoll.unregister(fd)

    def give_way(self) -> None:
        """See Waiter."""
        if time.monotonic() - self._resumed_at > SLICE_S:
            task = _current()
            self._make_ready(task)
            self.pause(task, FOREVER)

    def waker(self) -> Callable[[], None]:
        """See Waiter."""
        task = _current()

        def wake() -> None:
            self._woken.append(task)
            with suppress(OSError):  # the pipe is full, and the hub is woken in any case; or the process ends
                os.write(self._wake_writer, b".")

        return wake

    # --- the loop ---

    def _turn(self) -> None:
        """Resume every task that is ready now; wait for one if there is none."""
        self._new.clear()
        for fd, _ in self._epoll.poll(self._seconds(), MOST_EVENTS):
            if fd in self._new:
                continue
            if (task := self._waits.get(fd)) is not None:
                self._resume(task, (fd,))
            elif fd in self._readers:
                self._readers[fd]()
            else:
                self.forget(fd)  # nobody waits for it now
        self._run_timers()
        for _ in range(len(self._ready)):
            task = self._ready.popleft()
            task.is_ready = False
            self._resume(task, ())

    def _seconds(self) -> float | None:
        if self._ready:
            return 0
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _resume(self, task: _Task, ready: Sequence[int]) -> None:
        task.until = FOREVER
        self._resumed_at = time.monotonic()
        task.switch(ready)

    def _run_timers(self) -> None:
        """Resume the tasks whose time has come. An entry is not taken back when a wait ends early: once it is due, it
        is put where the present wait of its task ends.
        """
        timers = self._timers
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            task = heapq.heappop(timers)[2]
            task.timers.pop()
            if task.until <= now:
                self._resume(task, ())
            else:
                self._set_timer(task, task.until)

    def _set_timer(self, task: _Task, until: float) -> None:
        task.until = until
        if until < task.timers[-1]:
            task.timers.append(until)
            self._timer_count += 1
            heapq.heappush(self._timers, (until, self._timer_count, task))

    def _make_ready(self, task: _Task) -> None:
        if not task.is_ready:
            task.is_ready = True
            self._ready.append(task)

    def _take_woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)
        while self._woken:
            self._make_ready(self._woken.popleft())

    def _register(self, fd: int, events: int) -> None:
        """Have epoll wait for the file descriptor, which it may know already. What it knows of one that was closed
        meanwhile, the kernel has forgotten.
        """
        self._registered[fd] = events
        self._new.add(fd)
        try:
            self._epoll.register(fd, events)
        except FileExistsError:
            self._epoll.modify(fd, events)
