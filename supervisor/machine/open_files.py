"""How many files a worker process may open, and how many it needs."""

from __future__ import annotations

import math
import resource
from contextlib import suppress

# Files that a slot may have open at once: upstream, the gateway, and a kept connection to each.
FILES_PER_SLOT, FILES_BESIDES = 4, 100


def files_needed(max_process_num: int, worker_processes: int) -> int:
    """Return how many files a worker process with its share of the slots may have open at once."""
    return math.ceil(max_process_num / worker_processes) * FILES_PER_SLOT + FILES_BESIDES


def files_allowed() -> int | None:
    """Return how many files a process may open at most; None: any number.

    The node itself raises the lower (soft) limit, so that the higher (hard) one counts.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if most == resource.RLIM_INFINITY else most


def allow_files(needed: int) -> None:
    """Raise the limit of this process, and of those that it starts, if it is lower than needed."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= needed:
        return
    wanted = needed if most == resource.RLIM_INFINITY else min(needed, most)
    with suppress(OSError, ValueError):  # a container may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
