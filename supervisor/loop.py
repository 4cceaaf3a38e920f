"""What the supervisor's main thread waits on: worker pipes and sentinels, events of other threads, signals."""

from __future__ import annotations

import os
import queue
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from types import FrameType

from supervisor.events import Event
from supervisor.workers import Worker

# SIGHUP asks to read the settings again; the last two are taken only so that they do not end the node.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


# SIGHUP asks to stop only when the terminal was closed; the loop decides that, and it may hang.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
FORCED_WITHIN = 0.7  # seconds after the second signal in which the main thread may end the process by itself


class Source(Enum):
    """What of a worker became readable."""

    PIPE = "pipe"  # it has written something, or its pipe has ended
    SENTINEL = "sentinel"  # its process is dead


class Loop:
    """Waits for everything at once. `post` may be called from any thread, all else from the main thread only."""

    def __init__(self, end_by_force: Callable[[], None] = lambda: None) -> None:
        """Prepare to wait.

        Args:
            end_by_force: ends the process at once. Called from a thread when a second signal asks to stop and the
                process still lives FORCED_WITHIN later, whatever the main thread is waiting for.
        """
        self.takes_signal: Callable[[int], bool] = lambda _number: False  # deals with a signal that asks for no stop
        self._end_by_force = end_by_force
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        self._signal_reader, self._signal_writer = os.pipe()
        self._is_woken = False
        self._signals: list[int] = []

    def open(self) -> None:
        """Start to take in signals."""
        for descriptor in (self._wake_reader, self._wake_writer, self._signal_writer):
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        for number in SIGNALS:
            signal.signal(number, self._note_signal)
        # The interpreter writes a signal's number here as it comes, even while the main thread waits in a library.
        signal.set_wakeup_fd(self._signal_writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, name="signals", daemon=True).start()

    def post(self, event: Event) -> None:
        """Queue the event for the main thread, and wake it."""
        self._events.put(event)
        self._wake()

    def wait(self, timeout: float) -> list[tuple[Source, Worker]]:
        """Wait until something comes, for at most `timeout` seconds; return what workers have become readable."""
        ready: list[tuple[Source, Worker]] = []
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                os.read(self._wake_reader, 4096)
                self._is_woken = False
            else:
                ready.append(key.data)
        return ready

    def events(self) -> Iterator[Event]:
        """Yield the events that are there, in the order in which they were posted."""
        while not self._events.empty():
            yield self._events.get_nowait()

    def signals(self) -> Iterator[int]:
        """Yield the signals that ask to stop, oldest first."""
        while self._signals:
            number = self._signals.pop(0)
            if not self.takes_signal(number):
                yield number

    def watch(self, worker: Worker) -> None:
        """Report when the worker's pipe is readable, and when its process is dead."""
        self._selector.register(worker.process.pipe, selectors.EVENT_READ, (Source.PIPE, worker))
        self._selector.register(worker.process.sentinel, selectors.EVENT_READ, (Source.SENTINEL, worker))

    def unwatch_pipe(self, worker: Worker) -> None:
        """The pipe has ended: report it no more."""
        self._selector.unregister(worker.process.pipe)

    def unwatch(self, worker: Worker) -> None:
        """Report nothing of the worker any more; what is not watched is passed over."""
        for source in (worker.process.pipe, worker.process.sentinel):
            if source in self._selector.get_map():
                self._selector.unregister(source)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            os.write(self._wake_writer, b".")

    def _watch_signals(self) -> None:
        """The thread: wake the main thread for each signal, and end the process if that is asked for twice."""
        stops = 0
        while stops < 2:
            numbers = os.read(self._signal_reader, 64)
            self._wake()
            stops += sum(number in STOP_SIGNALS for number in numbers)
        time.sleep(FORCED_WITHIN)
        self._end_by_force()

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)
