"""How many tasks may be in flight now, and why. Joins the machine's readings and the counted tokens, and moves the cap.

The rules are cap.py's. Owned by the supervisor's main thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisor.concurrency.cap import Cap
from supervisor.concurrency.gpu_memory import GpuMemory
from supervisor.concurrency.sample import Sample
from supervisor.machine import Resources
from supervisor.states import CAP_REASONS
from workernode.protocol import Outcome
from workernode.settings import Settings

log = logging.getLogger(__name__)

SMOOTHING = 0.2  # weight of the newest answer in the typical duration of a plain answer


class ConcurrencyController:
    """The dynamic cap of this node."""

    def __init__(self, settings: Settings, read_machine: Callable[[], Resources]) -> None:
        """Start at the ceiling.

        Args:
            settings: MAX_PROCESS_NUM, CPU_HIGH, MEMORY_HIGH, and LOCAL_PARALLEL of a local node.
            read_machine: returns the newest reading of CPU and memory. Its moment (`Resources.at`) is the clock of the
                cap: a reading that was seen before is passed over.
        """
        self._settings = settings
        self._read_machine = read_machine
        self.resources: Resources = read_machine()
        # Until a local model has reported how many slots it has, LOCAL_PARALLEL is what it was asked to have.
        slots = settings.max_process_num
        self._cap = self._new_cap(min(slots, settings.local_parallel) if settings.node_type == "local" else slots)
        self._gpu_memory = GpuMemory()
        self._waiting = 0
        self._is_full = False
        self._tokens = self._tokens_measured = 0.0  # counted at the last sample, and at the last new reading
        self._plain_s = 0.0  # typical duration of a plain answer, whose tokens are counted only at its end
        self._plain_share = 0.0  # of all answers

    @property
    def cap(self) -> int:
        """The most tasks that may be in flight."""
        return self._cap.value

    @property
    def code(self) -> str:
        """Why the cap is where it is: a key of CAP_REASONS."""
        return self._cap.code

    @property
    def why(self) -> str:
        """Why the cap is where it is, for a person."""
        return CAP_REASONS[self._cap.code]

    def set_slots(self, slots: int) -> None:
        """The local model works on so many requests at once: more would wait inside it, unseen."""
        self._gpu_memory.model_ready(self.resources.at)
        slots = max(1, min(slots, self._settings.max_process_num))
        if slots != self._cap.ceiling:  # a model that was restarted is the same model: what was measured still holds
            self._cap = self._new_cap(slots)

    def note_waiting(self, waiting: int) -> None:
        """So many requests wait inside the engine behind upstream. May be called from any thread."""
        self._waiting = waiting

    def was_full(self) -> None:
        """A task could have been taken but for the cap."""
        self._is_full = True

    def answered(self, outcome: Outcome) -> None:
        """A task ended: note how long upstream took."""
        duration_s = outcome.durations.upstream
        if duration_s is not None:
            self._plain_share += (float(not outcome.stream) - self._plain_share) * SMOOTHING
            if not outcome.stream:
                self._plain_s += (duration_s - self._plain_s) * SMOOTHING

    def sample(self, in_flight: int, tokens: float) -> bool:
        """Read the machine, and move the cap if the rules say so.

        Args:
            in_flight: tasks at workers.
            tokens: tokens that came from upstream since the start.

        Returns:
            True if tokens came since the last sample.
        """
        have_come, self._tokens = tokens > self._tokens, tokens
        before, now = self.resources, self._read_machine()
        elapsed_s = now.at - before.at
        if elapsed_s <= 0:  # no new reading since the last sample
            return have_come
        self.resources = now
        new_tokens, self._tokens_measured = max(0.0, tokens - self._tokens_measured), tokens
        gpu_percent, gpu = self._gpu_memory.observe(now.at, now.gpus)
        change = self._cap.observe(
            Sample(
                at=now.at,
                cpu_percent=now.cpu_percent,
                memory_percent=max(now.memory_percent, gpu_percent if in_flight else 0.0),
                memory_of=f" of GPU {gpu}" if in_flight and gpu_percent > now.memory_percent else "",
                in_flight=in_flight,
                is_full=self._is_full,
                tokens_per_s=new_tokens / elapsed_s,
                waiting=self._waiting,
                lag_s=self._plain_s if self._plain_share > 0.5 else 0.0,
            )
        )
        self._is_full = False
        if change is not None:
            log.info(
                "cap %d → %d: %s",
                change.old,
                change.new,
                change.reason,
                extra={"event": "cap_changed", "old": change.old, "new": change.new, "code": change.code},
            )
        return have_come

    def _new_cap(self, slots: int) -> Cap:
        return Cap(slots, self._settings.cpu_high, self._settings.memory_high)
