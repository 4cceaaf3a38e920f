"""What the machine, or this container of it, has left."""

from __future__ import annotations

import contextlib

import psutil


def cpu_seconds(pid: int) -> float:
    """The CPU time that the process and its descendants have used, in seconds; 0 if it is gone."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                used = each.cpu_times()
                total += used.user + used.system
    return total
