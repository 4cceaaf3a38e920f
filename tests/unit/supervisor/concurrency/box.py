"""A computed box with a model server, in a closed loop with the cap."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.concurrency.cap import Cap, CapChange
from supervisor.concurrency.sample import Sample
from supervisor.states import CAP_REASONS

MEASURED = {1: 45.0, 2: 45.0, 4: 65.0, 8: 104.0, 16: 61.0}  # research/local-model: the embedded model on two cores
STEP_S = 0.1
Curve = dict[int, float]


def rate_at(curve: Curve, level: float) -> float:
    """Tokens per second with so many in flight, straight lines between the points."""
    points = sorted(curve.items())
    if level <= points[0][0]:
        return points[0][1] * level / points[0][0]
    for (low, low_rate), (high, high_rate) in itertools.pairwise(points):
        if level <= high:
            return low_rate + (high_rate - low_rate) * (level - low) / (high - low)
    return points[-1][1]


@dataclass
class Box:
    """A box with a model server. Everything that a scenario changes is an attribute."""

    curve: Curve
    seed: int = 1
    demand: int = 1000  # requests that are there or wait
    slow: float = 1.0  # the share of its speed that another user of the machine leaves to the server
    answer_tokens: tuple[int, int] = (40, 160)
    noise: float = 0.03
    cpu: Callable[[int], float] = lambda in_flight: 100.0 if in_flight else 3.0
    memory: Callable[[int], float] = lambda in_flight: 50.0
    prefill_s: float = 0.3
    whole_answers: bool = False  # tokens are counted when an answer is whole
    now: float = 1000.0
    running: list[list[float]] = field(default_factory=list)  # each: seconds of prefill left, tokens left, all tokens
    changes: list[tuple[float, CapChange]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    caps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def run(self, cap: Cap, seconds: float) -> None:
        """Let both run; a sample every second."""
        for _ in range(round(seconds)):
            made, counted, is_full = 0.0, 0.0, False
            for _ in range(round(1 / STEP_S)):
                self.now += STEP_S
                is_full = self.admit(cap.value) or is_full
                step_made, step_counted = self.work()
                made, counted = made + step_made, counted + step_counted
            change = cap.observe(
                Sample(
                    at=self.now,
                    cpu_percent=self.cpu(len(self.running)),
                    memory_percent=self.memory(len(self.running)),
                    in_flight=len(self.running),
                    is_full=is_full,
                    tokens_per_s=counted if self.whole_answers else made,
                    lag_s=10.0 if self.whole_answers else 0.0,
                )
            )
            assert 1 <= cap.value <= cap.ceiling
            if change:
                assert change.new == cap.value != change.old
                assert change.code in CAP_REASONS
                assert change.reason
                self.changes.append((self.now, change))
            self.rates.append(made)
            self.caps.append(cap.value)

    def admit(self, cap: int) -> bool:
        while len(self.running) < min(cap, self.demand):
            tokens = self.random.randint(*self.answer_tokens)
            self.running.append([self.prefill_s, tokens, tokens])
        return self.demand > cap

    def work(self) -> tuple[float, float]:
        """Return the tokens made in one step, and the tokens of the answers that became whole in it."""
        if not self.running:
            return 0.0, 0.0
        level = len(self.running)
        rate = rate_at(self.curve, level) * self.slow * max(0.1, self.random.gauss(1, self.noise))
        made, counted = 0.0, 0.0
        for request in self.running:
            if request[0] > 0:
                request[0] -= STEP_S
                continue
            share = min(request[1], rate * STEP_S / level)
            request[1] -= share
            made += share
            if request[1] <= 0:
                counted += request[2]
        self.running = [request for request in self.running if request[1] > 0]
        return made, counted

    def mean_rate(self, last_s: int) -> float:
        return sum(self.rates[-last_s:]) / last_s

    def moves_since(self, moment: float) -> int:
        return sum(at > moment for at, _ in self.changes)


def best_fixed(curve: Curve, ceiling: int, seed: int = 1) -> float:
    """The best that any fixed cap gives, on the same box."""
    return max(fixed(tuple(curve.items()), level, seed) for level in (1, 2, 4, 8, 16, 32) if level <= ceiling)


@functools.cache
def fixed(curve: tuple[tuple[int, float], ...], level: int, seed: int) -> float:
    """Tokens per second with a cap that does not move."""
    box = Box(dict(curve), seed=seed)
    box.run(Cap(level, cpu_high=100, memory_high=100), 120)
    return box.mean_rate(100)
