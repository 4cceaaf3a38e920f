"""The virtual clock and what happens at which moment; the story of a run; what was violated in it."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

START = 1000.0  # the clock's first second: a moment of 0 means "never" in the node's code
EPOCH = 1.7e9  # the wall clock's seconds at START

Waits = Generator[float, None, None]  # something that takes a while: yields how long it waits


class Violation(Exception):  # what was violated is its text, not its name
    """An invariant does not hold. `rule` names the invariant."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class World:
    """One run's clock and events. Everything random comes from `dice` or from `dice_for`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = START
        self.dice = random.Random(seed)
        self.story: list[tuple[float, str]] = []
        self.faults: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something called at a moment."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, call, arguments))

    def after(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something called after so many seconds."""
        self.at(self.now + delay, call, *arguments)

    def run(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Let everything happen up to a moment, or until `done`. May be called from within: a call that waits."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            if done is not None and done():
                return
            when, _, call, arguments = heapq.heappop(heap)
            self.now = max(self.now, when)
            call(*arguments)
        if (done is None or not done()) and until > self.now:
            self.now = until

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append((self.now - START, text))

    def fault(self, kind: str, text: str = "") -> None:
        """Count a fault that was injected, and add it to the story."""
        self.faults[kind] += 1
        self.tell(f"FAULT {kind}{': ' if text else ''}{text}")

    def dice_for(self, *names: object) -> random.Random:
        """Dice of one task or one process: what is taken out of a schedule does not change the rest."""
        return random.Random(f"{self.seed}/{'/'.join(map(str, names))}")
