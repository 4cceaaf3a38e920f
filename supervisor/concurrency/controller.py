"""How many tasks may be in flight now, and why: the machine's samples, the model's tokens, and the cap that they move.

Owned by the main thread. The rules are cap.py's, the figures resources.py's; this is where they meet.
"""

from __future__ import annotations

import logging
from statistics import median

from supervisor.concurrency.limit import Cap
from supervisor.concurrency.search import Sample
from supervisor.machine.resources import Resources, Sampler
from supervisor.states import CAP_REASONS
from workernode.protocol import Outcome
from workernode.settings import Settings

log = logging.getLogger(__name__)

SMOOTHING = 0.2  # weight of the newest answer in the typical duration
MOST_WAITS = 200  # first-token times kept between two samples


class Throttle:
    """The dynamic cap of this node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sampler = Sampler()
        self.resources: Resources = self._sampler.sample()
        # Until a local model has said how many slots it has, LOCAL_PARALLEL is what it was asked to have.
        slots = settings.max_process_num
        self._cap = self._new(min(slots, settings.local_parallel) if settings.node_type == "local" else slots)
        self._full = False
        self._said = 0.0
        self._said_at = self.resources.at
        self.tokens_per_s = 0.0
        self._waits: list[float] = []
        self._plain_s = 0.0  # typical duration of a plain answer, whose tokens are counted only at its end
        self._plain_share = 0.0

    @property
    def cap(self) -> int:
        """The most tasks that may be in flight."""
        return self._cap.value

    @property
    def code(self) -> str:
        """Why, as a metric's label has it: one of CAP_REASONS."""
        return self._cap.code

    @property
    def why(self) -> str:
        """Why, in words."""
        return CAP_REASONS[self._cap.code]

    def set_slots(self, slots: int) -> None:
        """The local model works on so many requests at once: more would wait inside it, unseen."""
        slots = max(1, min(slots, self._settings.max_process_num))
        if slots != self._cap.ceiling:  # a model that was started again is the same model: what was learned still holds
            self._cap = self._new(slots)

    def was_full(self) -> None:
        """A task could have been taken but for the cap."""
        self._full = True

    def answered(self, outcome: Outcome) -> None:
        """A task ended: note how long the model took."""
        stages = outcome.durations
        if stages.first_token is not None and outcome.stream and len(self._waits) < MOST_WAITS:
            self._waits.append(stages.first_token)
        if stages.upstream is not None:
            self._plain_share += (float(not outcome.stream) - self._plain_share) * SMOOTHING
            if not outcome.stream:
                self._plain_s += (stages.upstream - self._plain_s) * SMOOTHING

    def sample(self, in_flight: int, said: float) -> bool:
        """Look at the machine, and move the cap if that is called for. True if tokens came since the last look.

        Args:
            in_flight: tasks at workers.
            said: tokens that came from upstream since the start.
        """
        now = self.resources = self._sampler.sample()
        elapsed, more = now.at - self._said_at, said > self._said
        if elapsed > 0:
            self.tokens_per_s = max(0.0, said - self._said) / elapsed
        self._said, self._said_at = said, now.at
        change = self._cap.observe(
            Sample(
                at=now.at,
                cpu_percent=now.cpu_percent,
                memory_percent=now.memory_percent,
                in_flight=in_flight,
                full_house=self._full,
                tokens_per_s=self.tokens_per_s,
                first_token_s=median(self._waits) if self._waits else None,
                lag_s=self._plain_s if self._plain_share > 0.5 else 0.0,
            )
        )
        self._full = False
        self._waits = []
        if change is not None:
            log.info(
                "cap %d → %d: %s",
                change.old,
                change.new,
                change.reason,
                extra={"event": "cap_changed", "old": change.old, "new": change.new, "code": change.code},
            )
        return more

    def _new(self, slots: int) -> Cap:
        return Cap(slots, slots, self._settings.cpu_high, self._settings.memory_high)
