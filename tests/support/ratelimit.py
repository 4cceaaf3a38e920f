"""An upstream with a rate limit and the nodes that share its key, in simulated time: Fitness in a closed loop.

The limit is a token bucket, and its headers come in the forms of the wild. A node has slots, hands a task out when
Fitness lets it, and tries again as workernode/upstream/client.py does. Deterministic for a seed; no clock, no socket.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from supervisor.fitness import FitnessStateMachine
from supervisor.states import Intake
from workernode.protocol import FaultInfo, RateLimitReport
from workernode.upstream.ratelimit_headers import limits_of

TRIES, FIRST_PAUSE, LONGEST_PAUSE = 4, 0.5, 8.0  # workernode/upstream/client.py
NAK_DELAY = 1.0


class Form(Enum):
    """Which headers name the limit."""

    OPENAI = "openai"  # limit, remaining, reset as a Go duration; both waits with a 429
    AZURE = "azure"  # remaining, reset in whole seconds; retry-after-ms with a 429
    RETRY_AFTER = "retry-after"  # Retry-After in whole seconds with a 429
    NONE = "none"  # nothing at all


class LimitedUpstream:
    """A token bucket for one key."""

    def __init__(self, form: Form, per_minute: float, burst: int) -> None:
        self._form = form
        self.rate, self._burst = per_minute / 60, burst
        self._left, self._at = float(burst), 0.0
        self.accepted = self.refused = 0

    def ask(self, now: float) -> tuple[int, dict[str, str]]:
        """Return status and headers of a call that arrives now."""
        self._left = min(self._burst, self._left + (now - self._at) * self.rate)
        self._at = now
        status = 200 if self._left >= 1 else 429
        if status == 200:
            self._left -= 1
            self.accepted += 1
        else:
            self.refused += 1
        full, wait = (self._burst - self._left) / self.rate, (1 - self._left) / self.rate
        headers = {}
        if self._form is Form.OPENAI:
            headers["x-ratelimit-limit-requests"] = str(self._burst)
            headers["x-ratelimit-reset-requests"] = f"{int(full * 1000)}ms"
        if self._form is Form.AZURE:
            headers["x-ratelimit-reset-requests"] = str(int(full))
        if self._form in (Form.OPENAI, Form.AZURE):
            headers["x-ratelimit-remaining-requests"] = str(int(self._left))
            if status == 429:
                headers["retry-after-ms"] = str(int(wait * 1000) + 1)
        if self._form is Form.RETRY_AFTER and status == 429:
            headers["retry-after"] = str(int(wait) + 1)
        return status, headers


@dataclass(frozen=True)
class World:
    """What is simulated."""

    form: Form
    nodes: int = 1
    slots: int = 64
    tasks: int = 2000
    per_minute: float = 600
    burst: int = 60
    answer_s: float = 0.2  # how long an answer takes, give or take a third; a refusal comes at once
    way_s: float = 0.003  # one way to upstream
    hop_s: float = 0.004  # at most, between a worker and the supervisor
    stagger_s: float = 0.0  # each node starts so much after the one before
    streamed: bool = False  # headers come at once, not with the answer
    seed: int = 1


@dataclass
class Run:
    """What came of it."""

    seconds: float
    accepted: int
    refused: int
    by_node: list[int]

    used: float = field(init=False)  # of the limit, from the first task to the last answer
    per_minute: float = 0.0

    def __post_init__(self) -> None:
        self.used = self.accepted / (self.seconds * self.per_minute / 60)

    @property
    def refused_share(self) -> float:
        """Of all calls."""
        return self.refused / (self.refused + self.accepted)


class _Task:
    def __init__(self) -> None:
        self.tries = 0
        self.taken_at = 0.0
        self.spread = 0.0  # drawn once: where in the spread of a hold it starts


def simulate(world: World) -> Run:
    """Run the backlog to its end."""
    return _Simulation(world).run()


class _Simulation:
    def __init__(self, world: World) -> None:
        self._world = world
        self._random = random.Random(world.seed)
        self._upstream = LimitedUpstream(world.form, world.per_minute, world.burst)
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._backlog = [_Task() for _ in range(world.tasks)]
        self._fitness = [FitnessStateMachine(world.slots, lambda fault: str(fault.kind)) for _ in range(world.nodes)]
        self._busy = [0] * world.nodes
        self._done = [0] * world.nodes
        self._wakes = [math.inf] * world.nodes  # when each node's loop goes on without any event
        self._last = 0.0

    def run(self) -> Run:
        for node in range(self._world.nodes):
            self._at(node * self._world.stagger_s, self._turn, node)
        while self._agenda:
            now, _, act, about = heapq.heappop(self._agenda)
            act(now, *about)
        assert sum(self._done) == self._world.tasks, "a task was lost"
        upstream = self._upstream
        return Run(self._last, upstream.accepted, upstream.refused, self._done, per_minute=self._world.per_minute)

    def _at(self, moment: float, act: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), act, about))

    def _hop(self) -> float:
        return self._random.random() * self._world.hop_s

    def _turn(self, now: float, node: int) -> None:
        """The node's loop: take what may be taken."""
        fitness = self._fitness[node]
        while self._backlog and self._busy[node] < fitness.cap:
            gate = fitness.gate(now)
            assert gate.intake is not Intake.ONE_AT_A_TIME, "a short limit must not make the node unfit"
            if gate.allowed == 0:
                self._wake(gate.again_at, node)
                return
            fitness.admit(now)
            task = self._backlog.pop()
            task.tries, task.taken_at = 0, now
            self._busy[node] += 1
            self._at(now + self._hop(), self._ask, node, task)

    def _wake(self, moment: float, node: int) -> None:
        if moment < self._wakes[node]:
            self._wakes[node] = moment
            self._at(moment + 0.0005, self._woken, node, moment)

    def _woken(self, now: float, node: int, moment: float) -> None:
        if moment == self._wakes[node]:  # else an earlier one has taken its place
            self._wakes[node] = math.inf
            self._turn(now, node)

    def _ask(self, now: float, node: int, task: _Task) -> None:
        """The worker's thread: wait for the node's hold, then ask."""
        hold = self._fitness[node].hold
        start = hold.until + task.spread * hold.spread
        if now < start - 1e-6:
            self._at(start, self._ask, node, task)
            return
        task.tries += 1
        self._at(now + self._world.way_s, self._arrive, node, task, now)

    def _arrive(self, now: float, node: int, task: _Task, asked: float) -> None:
        world = self._world
        status, headers = self._upstream.ask(now)
        answered = now + world.way_s + world.answer_s * self._random.uniform(0.67, 1.33) * (status == 200)
        heads = now + world.way_s if world.streamed else answered
        seen = limits_of(status, headers, heads, asked=asked, wall=0.0)
        if seen:
            self._at(heads + self._hop(), self._hear, node, seen)
        if status == 200:
            self._at(answered + self._hop(), self._end, node, task, None)
            return
        assert seen is not None
        if task.tries == TRIES:
            self._at(answered + self._hop(), self._end, node, task, seen)
            return
        task.spread = self._random.random()
        pause = min(self._random.uniform(FIRST_PAUSE / 2, FIRST_PAUSE * 2 ** (task.tries - 1)), LONGEST_PAUSE)
        self._at(answered + max(pause, seen.retry_after or 0.0), self._ask, node, task)

    def _hear(self, now: float, node: int, seen: RateLimitReport) -> None:
        self._fitness[node].limit_seen(now, seen)
        self._turn(now, node)

    def _end(self, now: float, node: int, task: _Task, refused: RateLimitReport | None) -> None:
        trouble = None
        if refused is not None:
            assert refused.kind is not None
            trouble = FaultInfo(refused.kind, 429, "rate_limit_exceeded", "", refused.retry_after)
            self._at(now + NAK_DELAY, self._back, task)
        else:
            self._done[node] += 1
            self._last = now
        self._busy[node] -= 1
        self._fitness[node].ended(
            now, task.taken_at, trouble, upstream_answered=refused is None, was_probe=False
        )
        self._turn(now, node)

    def _back(self, now: float, task: _Task) -> None:
        task.spread = 0.0
        self._backlog.append(task)
        for node in range(self._world.nodes):
            self._turn(now, node)
