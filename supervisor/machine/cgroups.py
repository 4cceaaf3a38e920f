"""Limits and use of this process's cgroups: v1, v2, and both side by side; every level up to the mount.

Only files are read, so that tests can use recorded ones. Formats: docs.kernel.org admin-guide/cgroup-v2.rst,
cgroup-v1/memory.rst, scheduler/sched-bwc.rst and proc_pid_mountinfo(5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

T = TypeVar("T")

# v1 writes the largest number of bytes in whole pages for "no limit".
NO_LIMIT_V1 = 1 << 60


@dataclass(frozen=True, slots=True)
class Memory:
    """A limit and its use, in bytes. Page cache does not count: the kernel drops it when memory is needed."""

    limit: int
    used: int


@dataclass(frozen=True, slots=True)
class CpuClock:
    """A quota, in processors, and the processor seconds used since the cgroup began."""

    cpus: float
    used_s: float


class Cgroups:
    """The cgroups that this process is in, found once. Their limits can change and are read each time."""

    def __init__(self, root: Path) -> None:
        """Find them.

        Args:
            root: the file system's root; another one for recorded files.
        """
        memory = hierarchy(root, "memory")
        cpu, cpuacct = hierarchy(root, "cpu"), hierarchy(root, "cpuacct")
        self._memory: list[Callable[[], Memory | None]] = [
            partial(memory_v2 if memory.v2 else memory_v1, folder) for folder in memory.folders
        ]
        self._quotas: list[Callable[[], CpuClock | None]] = (
            [partial(quota_v2, folder) for folder in cpu.folders]
            if cpu.v2
            else [partial(quota_v1, *pair) for pair in zip(cpu.folders, cpuacct.folders, strict=False)]
        )
        self._used_s: list[Callable[[], float]] = (
            [partial(used_s_v2, folder) for folder in cpu.folders[:1]]
            if cpu.v2
            else [partial(used_s_v1, folder) for folder in cpuacct.folders[:1]]
        )

    def memory(self) -> list[Memory]:
        """Return limit and use of every level that has a limit."""
        return answers(self._memory)

    def quotas(self) -> list[CpuClock]:
        """Return quota and use of every level that has a quota."""
        return answers(self._quotas)

    def used_s(self) -> float | None:
        """Return the processor seconds used by this process's own cgroup; None if no file has them."""
        return next(iter(answers(self._used_s)), None)


def answers(readers: Sequence[Callable[[], T | None]]) -> list[T]:
    """Return what the readers read. Levels whose files are missing or unreadable (the root has none) are left out."""
    read = []
    for reader in readers:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if (value := reader()) is not None:
                read.append(value)
    return read


def memory_v2(folder: Path) -> Memory | None:
    limit = (folder / "memory.max").read_text().strip()
    if limit == "max":
        return None
    cache = pairs(folder / "memory.stat")
    used = int((folder / "memory.current").read_text())
    return Memory(max(1, int(limit)), max(0, used - cache["active_file"] - cache["inactive_file"]))


def memory_v1(folder: Path) -> Memory | None:
    limit = int((folder / "memory.limit_in_bytes").read_text())
    if limit >= NO_LIMIT_V1:
        return None
    cache = pairs(folder / "memory.stat")
    used = int((folder / "memory.usage_in_bytes").read_text())
    return Memory(max(1, limit), max(0, used - cache["total_active_file"] - cache["total_inactive_file"]))


def quota_v2(folder: Path) -> CpuClock | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else CpuClock(int(quota) / int(period), used_s_v2(folder))


def quota_v1(folder: Path, accounting: Path) -> CpuClock | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        return None
    period = int((folder / "cpu.cfs_period_us").read_text())
    return CpuClock(quota / period, used_s_v1(accounting))


def used_s_v2(folder: Path) -> float:
    return pairs(folder / "cpu.stat")["usage_usec"] / 1e6


def used_s_v1(folder: Path) -> float:
    return int((folder / "cpuacct.usage").read_text()) / 1e9


def pairs(path: Path) -> Mapping[str, int]:
    """Return the content of a file with lines of a name and a number."""
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


# --- Where the files are --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The folders of one controller: this process's own cgroup first, the mount last. None where it is not mounted."""

    folders: tuple[Path, ...]
    v2: bool


def hierarchy(root: Path, controller: str) -> Hierarchy:
    """Find the folders of a controller for this process: in its own v1 hierarchy, else in that of v2.

    Args:
        root: "/", or where a test has its own files of /proc and /sys.
        controller: "cpu", "memory" ...
    """
    try:
        memberships = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # no Linux, or no /proc
        return Hierarchy((), v2=False)
    v1 = [path for _, controllers, path in memberships if controller in controllers.split(",")]
    v2 = [path for number, _, path in memberships if number == "0"]
    for cgroup in v1[:1] or v2[:1]:
        for mount in mounts:
            fields, _, of_kind = mount.partition(" - ")
            kind, _, options = of_kind.split(" ", 2)
            if kind == "cgroup" and controller in options.split(",") if v1 else kind == "cgroup2":
                mount_root, mount_point = fields.split(" ")[3:5]
                return Hierarchy(levels(root, mount_point, mount_root, cgroup), v2=not v1)
    return Hierarchy((), v2=False)


def levels(root: Path, mount_point: str, mount_root: str, cgroup: str) -> tuple[Path, ...]:
    """Return the existing folders from the cgroup's own up to the mount point.

    Args:
        mount_root: the cgroup that the mount shows as its top; in a container mostly the container's own.
        cgroup: as /proc/self/cgroup has it; below `mount_root`, or seen from another namespace.
    """
    top = root / mount_point.lstrip("/")
    path = PurePosixPath(cgroup)
    below = path.relative_to(mount_root) if path.is_relative_to(mount_root) else PurePosixPath()
    chain = [top / below, *(top / parent for parent in below.parents)]
    existing = tuple(dict.fromkeys(folder for folder in chain if folder.is_dir()))
    return existing or (top,)
