"""Readings of CPU and memory: of this machine, or of its container. The only module that imports psutil.

psutil knows nothing of cgroups. So the container's limits are read as well, and the tighter of both counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.machine.cgroups import Cgroups, CpuClock, Memory
from supervisor.machine.gpu import ReadGpus
from supervisor.readings import Gpu

# Between two readings that are closer, the kernel's ticks (10 ms) would be most of the result.
SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True)
class Resources:
    """One reading. Percent are of what the node may use."""

    at: float  # monotonic, seconds
    cpu_percent: float  # since the reading before; 100: all that may be used is in use, by any process
    cpus: float  # how many may be used: fewer than the host has under a quota or an affinity
    memory_percent: float  # page cache does not count
    memory_free_bytes: int
    memory_limit_bytes: int
    memory_source: str  # whose limit is the tightest: "host" or "cgroup"
    gpus: tuple[Gpu, ...] = ()


class Sampler:
    """Reads the machine. Made and used by one thread; a reading takes well under a millisecond."""

    def __init__(
        self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic, read_gpus: ReadGpus | None = None
    ) -> None:
        """Begin the first interval of CPU time.

        Args:
            root: the file system's root; another one for recorded cgroup files.
            clock: seconds, monotonic.
            read_gpus: reads the GPUs (supervisor.machine.find_gpus); None: they are of no interest.
        """
        self._cgroups, self._clock, self._read_gpus = Cgroups(root), clock, read_gpus
        self._at, self._clocks = clock(), self._read_clocks()
        self._cpu_percent = 0.0

    def sample(self) -> Resources:
        """Return the readings of now."""
        now = self._clock()
        if now - self._at >= SHORTEST_S:
            clocks = self._read_clocks()
            self._cpu_percent = busiest(self._clocks, clocks, now - self._at)
            self._at, self._clocks = now, clocks
        limits = [("host", host_memory()), *(("cgroup", memory) for memory in self._cgroups.memory())]
        source, memory = max(limits, key=lambda limit: limit[1].used / limit[1].limit)
        return Resources(
            at=now,
            cpu_percent=self._cpu_percent,
            cpus=min(clock.cpus for clock in self._clocks.values()),
            memory_percent=100.0 * memory.used / memory.limit,
            memory_free_bytes=max(0, memory.limit - memory.used),
            memory_limit_bytes=memory.limit,
            memory_source=source,
            gpus=self._read_gpus() if self._read_gpus else (),
        )

    def _read_clocks(self) -> dict[str, CpuClock]:
        """Return the host's CPU time, and that of each limit that keeps the node from using all of the host."""
        clocks = {"host": host_clock()}
        allowed = float(affinity())
        own_s = self._cgroups.used_s()
        if allowed < clocks["host"].cpus and own_s is not None:
            clocks["affinity"] = CpuClock(allowed, own_s)
        for level, quota in enumerate(self._cgroups.quotas()):
            clocks[f"quota {level}"] = CpuClock(min(quota.cpus, allowed), quota.used_s)
        return clocks


def busiest(before: Mapping[str, CpuClock], after: Mapping[str, CpuClock], seconds: float) -> float:
    """Return the percent of the busiest clock between two readings."""
    shares = [(after[name].used_s - old.used_s) / after[name].cpus for name, old in before.items() if name in after]
    return min(100.0, max(0.0, 100.0 * max(shares) / seconds))


def host_memory() -> Memory:
    """Return the host's memory; used is what is not available without swapping."""
    memory = psutil.virtual_memory()
    return Memory(limit=memory.total, used=memory.total - memory.available)


def host_clock() -> CpuClock:
    """Return the host's CPU time. Waiting for a disk counts as idle; what a hypervisor took away counts as used."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is part of the user's already.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return CpuClock(cpus=float(os.cpu_count() or 1), used_s=sum(times) - guest - idle)


def affinity() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that the process and its descendants have used; 0 if it is gone."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                used = each.cpu_times()
                total += used.user + used.system
    return total


def kill_descendants(limit_s: float) -> None:
    """Kill all processes that this one and its descendants have started, and wait until they are gone.

    Args:
        limit_s: how long to wait at most.
    """
    descendants = psutil.Process().children(recursive=True)
    for each in descendants:
        with contextlib.suppress(psutil.Error):
            each.kill()
    psutil.wait_procs(descendants, timeout=limit_s)


def wait_gone(pid: int, limit_s: float) -> None:
    """Wait until the process is gone, for at most `limit_s` seconds."""
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).wait(limit_s)
