"""Where the node is between its start and its end: signals, the drain, and what becomes of tasks that outlast it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

from supervisor.dispatcher import Dispatcher
from supervisor.events import Event, StreamsEnded
from supervisor.loop import Loop
from supervisor.states import NODE_MOVES, NodeState
from supervisor.workers import Pool
from workernode.protocol import FromWorker, Job, Outcome

log = logging.getLogger(__name__)

# Seconds after the drain that an end gets which is leaving a worker: killed amid that, it may leave its client without.
ENDS_LIMIT = 0.5
ENDS_INTERVAL = 0.01  # seconds between two looks at whether it has left
CLAIMS_LIMIT = 2.0  # seconds after the drain until it is known which begun streams may be ended here
STREAMS_LIMIT = 6.0  # seconds after the drain that the ending of begun streams gets
RECORDS_LIMIT = 3.0  # seconds after that for the last records to be stored

EndStreams = Callable[[Sequence[Job], Callable[[list[Outcome]], None]], None]


class Hooks(Protocol):
    """What the lifecycle asks of the node."""

    def on_worker_message(self, message: FromWorker) -> None:
        """Take in what a worker had reported before it was killed."""

    def drain_begins(self, limit_s: float) -> None:
        """The node takes no more tasks, and drains for at most so long."""

    def stop_model(self, now: float) -> None:
        """Ask the local model server to stop, if there is one."""

    def is_model_stopped(self) -> bool:
        """True if no local model server runs."""


class Lifecycle:
    """The node's state and its end. Owned by the main thread; only the killing of workers waits, for a moment."""

    def __init__(
        self, drain_timeout: float, loop: Loop, pool: Pool, dispatcher: Dispatcher, end_streams: EndStreams,
        hooks: Hooks,
    ) -> None:  # fmt: skip
        """Begin in STARTING.

        Args:
            drain_timeout: DRAIN_TIMEOUT, seconds.
            loop: gives signals, and takes the event StreamsEnded.
            pool: the workers; killed when the drain is over.
            dispatcher: decides the tasks that are left.
            end_streams: ends streams whose workers were killed; calls back from a thread, within STREAMS_LIMIT.
            hooks: the node.
        """
        self.state = NodeState.STARTING
        self.is_forced = False  # a second signal came
        self.next_due = float("inf")  # monotonic time at which `step` has something to do by itself
        self._drain_timeout = drain_timeout
        self._loop, self._pool, self._dispatcher = loop, pool, dispatcher
        self._end_streams, self._hooks = end_streams, hooks
        self._is_drain_over = False
        self._killed_by = float("inf")  # monotonic: ends that are leaving are waited for until then
        self._ends: list[Job] = []  # that end begun streams, once it is known which of them may be ended here

    def ready(self) -> None:
        """All that the node needs is there."""
        if self.state is NodeState.STARTING:
            self._move("ready")

    def on_signals(self, now: float) -> None:
        """Begin to drain, or, at a second signal, end at once."""
        for number in self._loop.signals():
            name = signal.Signals(number).name
            if self.state in (NodeState.DRAINING, NodeState.STOPPING):
                log.warning("%s again: stopping at once", name, extra={"event": "forced"})
                self.is_forced = True
                self.next_due = now
                continue
            limit, tasks = self._drain_timeout, len(self._dispatcher)
            log.info("%s: finishing %d tasks, at most %g s", name, tasks, limit, extra={"event": "asked_to_stop"})
            self.next_due = now + limit
            self._move("drain")
            self._hooks.drain_begins(limit)

    def step(self, now: float) -> None:
        """While draining: stop when nothing is in flight, or when the time is over."""
        if self.state is NodeState.DRAINING:
            self._dispatcher.nak_queued()
            is_over = len(self._dispatcher) and now >= self.next_due and not self._is_drain_over
            if is_over and not self._waits_for_ends(now):
                self._end_drain(now)
            if self._ends:
                self._end_begun_streams(now)
            if len(self._dispatcher) and now < self.next_due and not self.is_forced:
                return
            self._dispatcher.send_back(now, everything=True)
            self.next_due = float("inf")
            self._move("empty")
            self._hooks.stop_model(now)
        if self.state is NodeState.STOPPING and (self.is_forced or self._hooks.is_model_stopped()):
            self._move("alone")

    def streams_ended(self, now: float, outcomes: Sequence[Outcome]) -> None:
        """The begun streams are ended: wait for their records."""
        self._dispatcher.streams_ended(outcomes)
        if self.state is NodeState.DRAINING:
            self.next_due = now + RECORDS_LIMIT

    def _waits_for_ends(self, now: float) -> bool:
        """Return True if an end is leaving a worker, which is to be waited for a little longer."""
        self._killed_by = min(self._killed_by, now + ENDS_LIMIT)
        if self.is_forced or now >= self._killed_by or not self._pool.is_ending():
            return False
        self.next_due = now + ENDS_INTERVAL
        return True

    def _end_drain(self, now: float) -> None:
        """DRAIN_TIMEOUT is over: what is left goes back to the broker, except what a client has begun to see."""
        left = self._dispatcher.request_ids()
        about = {"event": "left_over", "requests": left[:100]}
        log.warning(
            "%d tasks were left at the end of the drain: begun streams are ended, the rest goes back to the broker",
            len(left), extra=about,
        )  # fmt: skip
        self._is_drain_over = True
        last, states = self._pool.kill()
        for message in last:
            self._hooks.on_worker_message(message)
        if self.is_forced:
            return
        self._ends = self._dispatcher.decide_rest(states)
        self.next_due = now + (CLAIMS_LIMIT if self._ends else RECORDS_LIMIT)

    def _end_begun_streams(self, now: float) -> None:
        jobs = self._dispatcher.claims.may_end(self._ends, at_once=now >= self.next_due)
        if jobs is None:
            return
        self._ends = []
        self.next_due = now + (STREAMS_LIMIT if jobs else RECORDS_LIMIT)
        if jobs:
            self._end_streams(jobs, self._post_streams_ended)

    def _post_streams_ended(self, outcomes: Sequence[Outcome]) -> None:
        event: Event = StreamsEnded(outcomes)
        self._loop.post(event)

    def _move(self, cause: str) -> None:
        self.state = NODE_MOVES[self.state, cause]
        if self.state is not NodeState.STOPPED:  # logged when it is so
            log.info("%s", self.state.value, extra={"event": self.state.value})
