"""Simulated worker processes: they take jobs, die at any instant, hang, start late.

Their pipes carry the real bytes, in pieces cut anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from supervisor.workers.death import MOST_SHARED, most_sends
from tests.simulation.attempt import Attempt
from tests.simulation.outside import FIRST_KEY, Gateway, Upstream
from tests.simulation.schedule import TaskPlan
from tests.simulation.world import Violation, Waits, World
from workernode.pipe import pack
from workernode.protocol import AnswerState, Granted, Hold, Job, Lease, Ready, SavedStream, Stop, Target, ToWorker


class Host(Protocol):
    """What a process needs of the node that it belongs to."""

    name: str
    world: World
    gateway: Gateway
    upstream: Upstream
    plans: dict[str, TaskPlan]
    max_redeliveries: int
    nak_delay: float

    def readable(self) -> None:
        """A pipe or a sentinel has become readable."""

    def block(self, seconds: float, done: Callable[[], bool]) -> None:
        """The main thread waits, while the world goes on."""

    def request_of(self, job: Job) -> TaskPlan:
        """Which task a job is."""


class SimProcess:
    """A worker process (supervisor.workers.contract.Process)."""

    def __init__(self, host: Host, index: int, slots: int, start_takes: float, count: int) -> None:
        self.host = host
        self._world = host.world
        self.name = f"{host.name}.w{index}.{count}"
        self._dice = host.world.dice_for(self.name)
        self.answer_states: list[int] = [0] * slots
        self.pid: int | None = count
        self._count = count
        self.tokens = 0.0
        self.is_alive = True
        self.is_ready = False
        self.is_closed = False
        self._hangs_since: float | None = None
        self._ended_at = self._dead_at = float("inf")  # when pipe and sentinel show the death
        self._cause = ""
        self._is_mute = False  # its pipe has ended
        self.hold = Hold(0.0)
        self.key = FIRST_KEY  # upstream's
        self.asks_claims = True
        self.lease = Lease(float("inf"))
        self.grants: set[tuple[int, bool]] = set()  # number of the job, is it for the end
        self.lost: set[int] = set()  # numbers of jobs whose claims are lost
        self.asks_ahead = False  # the latest stream got its first chunk soon
        self._buffer = bytearray()
        self._attempts: dict[int, Waits] = {}
        self._jobs: dict[int, Job] = {}
        self._deferred: list[Callable[[], None]] = []
        self._world.after(start_takes, self._start)

    # --- what the pool does (supervisor.workers.contract.Process) ---

    @property
    def pipe(self) -> SimProcess:
        """Itself: the loop asks `pipe_readable`."""
        return self

    @property
    def sentinel(self) -> SimProcess:
        """Itself: the loop asks `sentinel_readable`."""
        return self

    @property
    def beat(self) -> float:
        """Half a second ago, while it moves."""
        if not self.is_ready:
            return 0.0
        if self._hangs_since is not None:
            return self._hangs_since
        return self._world.now - 0.5 if self.is_alive else min(self._dead_at, self._world.now)

    def put(self, message: ToWorker) -> None:
        """The message arrives a moment later, if the process lives then."""
        if self.is_closed:
            raise Violation("nothing is written to a worker that was reaped", self.name)
        self._world.after(self._dice.uniform(0.0001, 0.001), self._do, lambda: self._take(message))

    def read(self) -> bytes:
        """A piece of what was written, cut anywhere; b"" at the end."""
        if self.is_closed:
            return b""
        if not self._buffer:
            if self._world.now < self._ended_at:
                raise Violation("the main loop never waits", f"read from the empty pipe of {self.name}")
            return b""
        size = self._dice.choice((len(self._buffer), self._dice.randint(1, len(self._buffer))))
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def read_rest(self) -> Iterator[bytes]:
        """What a dead process had still written."""
        while piece := self._buffer:
            self._buffer = bytearray()
            yield bytes(piece)

    def forget_stream(self, slot: int) -> None:
        """Another job gets the slot. Nothing is saved of streams yet."""

    def saved_stream(self, slot: int) -> SavedStream | None:
        """Streams whose worker dies end with an error here."""
        return None

    def kill(self) -> None:
        """SIGKILL. Of every fourth it cannot be known whether memory was short."""
        why = ", perhaps out of memory" if self._count % 4 == 3 else " from outside"
        self.die(f"killed by SIGKILL{why}")

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end."""
        if timeout is None and self.is_alive and self._hangs_since is not None:
            raise Violation("the main loop never waits", f"joins {self.name}, which hangs")
        self.host.block(30.0 if timeout is None else timeout, lambda: not self.is_alive)
        return not self.is_alive

    def cause(self) -> str:
        """Why it ended."""
        return self._cause

    def was_killed_from_outside(self) -> bool:
        """Whether that is known."""
        return self._cause in ("killed by SIGKILL from outside", "its fork server was killed")

    def close(self) -> None:
        """The supervisor's ends of the pipes are closed."""
        self.is_closed = True

    # --- what the loop sees ---

    @property
    def pipe_readable(self) -> bool:
        """Something to read, or the end."""
        return bool(self._buffer) or self._world.now >= self._ended_at

    @property
    def sentinel_readable(self) -> bool:
        """Whether the process has ended."""
        return self._world.now >= self._dead_at

    # --- what happens to it ---

    def die(self, cause: str) -> None:
        """It is gone this instant. A message that it was writing stays half written."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._cause = self._cause or cause
        self._note_untold()
        for slot, job in self._jobs.items():
            client = self.host.gateway.clients[self.host.request_of(job).id]
            client.deaths += 1
            if job.kept is not None and client.deaths > max(1, self.host.max_redeliveries):
                client.excuses.add("workers died again and again while they offered its answer")
            if self.answer_states[slot] == AnswerState.ENDING:
                client.excuses.add("its worker was killed between showing the end and sending it")
        for slot in self._jobs:
            if slot in self._attempts and not self._is_mute and self._dice.random() < 0.3:
                self._buffer += pack(Ready(0))[: self._dice.randint(1, 9)]
                self._world.faults["pipe closed amid a message"] += 1
                break
        now = self._world.now
        self._ended_at = min(self._ended_at, now + self._dice.uniform(0.0, 0.003))
        self._dead_at = min(self._dead_at, now + self._dice.uniform(0.0, 0.005))
        self._world.at(self._ended_at, self.host.readable)
        self._world.at(self._dead_at, self.host.readable)

    def _note_untold(self) -> None:
        """After some deaths of workers that were to tell a client an error, nobody tries again (workers/death.py).

        One that kills workers by itself may be given up after two of them, or earlier where others had died before.
        """
        for job in self._jobs.values():
            plan = self.host.request_of(job)
            client = self.host.gateway.clients[plan.id]
            if job.rejection is not None or plan.deaths_telling:
                client.deaths_telling += job.rejection is not None
                own, most = self.host.upstream.killed_telling.get(plan.id, 0), most_sends(self.host.max_redeliveries)
                if own > 1 or client.deaths_telling >= most * (1 if own else MOST_SHARED):
                    client.excuses.add("workers died again and again while they told it an error")

    def end_pipe(self) -> None:
        """Its pipe to the supervisor ends, and it lives on: nothing that it writes arrives."""
        if self.is_alive and self.is_ready:
            self._is_mute = True
            self._ended_at = min(self._ended_at, self._world.now)
            self.host.readable()

    def orphan(self) -> None:
        """Its forkserver was killed. It lives on for a moment, until its thread in the supervisor kills it."""
        self._world.after(self._dice.uniform(0.0, 0.01), self.die, "its fork server was killed")

    def hang(self, seconds: float) -> None:
        """It does not move for so long (SIGSTOP), or until it is killed."""
        if self.is_alive and self._hangs_since is None:
            self._hangs_since = self._world.now
            self._world.after(seconds, self._resume)

    def _resume(self) -> None:
        self._hangs_since = None
        deferred, self._deferred = self._deferred, []
        for call in deferred:
            self._do(call)

    def _do(self, call: Callable[[], None]) -> None:
        """Do something as the process, now or when it moves again."""
        if not self.is_alive:
            return
        if self._hangs_since is not None:
            self._deferred.append(call)
        else:
            call()

    def _start(self) -> None:
        def start() -> None:
            self.is_ready = True
            self.write(Ready(1))

        self._do(start)

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Hold):
            self.hold = message
        elif isinstance(message, Granted):
            if message.is_granted:
                self.grants.add((message.number, message.is_end))
            else:
                self.lost.add(message.number)
        elif isinstance(message, Target):
            self.key = message.key or FIRST_KEY  # a local model has none
        elif isinstance(message, Stop):
            self.die("exit code 0")
        elif isinstance(message, Job):
            if message.slot in self._attempts:
                raise Violation("one job a slot", f"{self.name}, slot {message.slot}")
            self._jobs[message.slot] = message
            self._attempts[message.slot] = one = Attempt(self, message).run()
            self._advance(message.slot, one)

    def _advance(self, slot: int, one: Waits) -> None:
        try:
            delay = next(one)
        except StopIteration:
            return
        self._world.after(delay, self._do, lambda: self._advance(slot, one))

    def write(self, message: Any) -> None:
        if not self._is_mute:
            self._buffer += pack(message)
        self.host.readable()

    def ended(self, slot: int) -> None:
        """The job of a slot is done."""
        del self._attempts[slot], self._jobs[slot]
