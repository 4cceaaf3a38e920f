"""How many processes the kernel has killed for want of memory: of this process's cgroup, or of the machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from supervisor.machine.cgroups import hierarchy, pairs


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return the kernel's count of the processes that it has killed because memory was short.

    The kernel counts before it kills: whoever sees that a process is dead finds its kill in the count.

    Args:
        root: the file system's root; another one for recorded files.

    Returns:
        The count of this process's own cgroup; where that has none (a root cgroup), that of the whole machine; None
        where neither can be read.
    """
    memory = hierarchy(root, "memory")
    own = [folder / ("memory.events" if memory.v2 else "memory.oom_control") for folder in memory.folders[:1]]
    for path in (*own, root / "proc/vmstat"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return pairs(path)["oom_kill"]
    return None
