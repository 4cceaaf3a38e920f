"""Stands in for the selector of the main loop: what is readable, what was posted, which signals came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from supervisor.events import Event, RetryHere
from supervisor.loop import Source
from supervisor.workers import Worker

if TYPE_CHECKING:
    from tests.simulation.node import SimNode


class SimLoop:
    """Stands in for the selector. What is readable is level-triggered, and comes in any order."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._world = node.world
        self._events: list[tuple[float, Event]] = []
        self._signals: list[int] = []
        self.watched: dict[int, tuple[Worker, set[Source]]] = {}

    def open(self) -> None:
        """Nothing to open."""

    def post(self, event: Event) -> None:
        """Queue an event."""
        self._events.append((self._world.now, event))
        self._node.wake()

    def signal(self, number: int) -> None:
        """A signal comes."""
        self._signals.append(number)
        self._node.wake()

    def events(self) -> Iterator[Event]:
        """What was posted."""
        while self._events:
            since, event = self._events.pop(0)
            self._node.check_age(since, type(event).__name__)
            if isinstance(event, RetryHere):
                self._node.retried.add(event.received.key)
            yield event

    def signals(self) -> Iterator[int]:
        """The signals that came."""
        while self._signals:
            yield self._signals.pop(0)

    def watch(self, worker: Worker) -> None:
        """Report what becomes readable."""
        self.watched[id(worker)] = (worker, set(Source))

    def unwatch_pipe(self, worker: Worker) -> None:
        """As a selector does it: KeyError for what is not watched."""
        self.watched[id(worker)][1].remove(Source.PIPE)

    def unwatch(self, worker: Worker) -> None:
        """Report nothing more."""
        self.watched.pop(id(worker), None)

    def ready(self) -> list[tuple[Source, Worker]]:
        """What is readable now."""
        found = []
        for worker, sources in self.watched.values():
            process: Any = worker.process
            if process.pipe_readable and Source.PIPE in sources:
                found.append((Source.PIPE, worker))
            if process.sentinel_readable and Source.SENTINEL in sources:
                found.append((Source.SENTINEL, worker))
        if len(found) > 1:
            self._world.dice.shuffle(found)
        return found

    @property
    def has_news(self) -> bool:
        """Whether the selector would return at once."""
        return bool(self._events or self._signals or self.ready())
