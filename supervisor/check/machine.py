"""`--check`: is there enough of the machine, or of the container, for MAX_PROCESS_NUM?"""

from __future__ import annotations

import math
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from supervisor.check.findings import Check, Context, Finding, Mark
from supervisor.machine import Sampler, files_allowed, files_needed, hierarchy, unwritable_folder

FILES, TASKS, MEMORY, FOLDERS = "open files", "threads", "memory", "folders"
# Besides one thread a slot, each process has a few, and the broker's library and the model server some more.
THREADS_BESIDES = 100
WORKER_BYTES, SUPERVISOR_BYTES = 40 << 20, 150 << 20  # in use when busy


def checks() -> list[Check]:
    """Return the checks of this module."""
    return [Check((FILES, TASKS, MEMORY, FOLDERS), _limits)]


def _limits(context: Context) -> Iterator[Finding]:
    """Yield whether there is enough for MAX_PROCESS_NUM."""
    yield files(context)
    yield threads(context, Path("/"))
    yield memory(context)
    yield folders()


def files(context: Context) -> Finding:
    """Check the open files of a worker process, which has its share of the slots."""
    settings = context.settings
    slots = math.ceil(settings.max_process_num / settings.worker_processes)
    needed, allowed = files_needed(settings.max_process_num, settings.worker_processes), files_allowed()
    if allowed is None or allowed >= needed:
        return Finding(FILES, Mark.OK, f"{needed} at most of {allowed or 'any number'} (a process with {slots} slots)")
    text = f"a process with {slots} slots may need {needed}, and may have {allowed}"
    return Finding(FILES, Mark.FAULT, text, f"ulimit -n {needed} (systemd: LimitNOFILE=), or lower MAX_PROCESS_NUM")


def threads(context: Context, root: Path) -> Finding:
    """Check the threads, which the kernel counts as processes, against the limits of container and user.

    Args:
        root: the file system's root; another one for recorded cgroup files.
    """
    settings = context.settings
    needed = settings.max_process_num + settings.worker_processes * 8 + THREADS_BESIDES
    allowed = [limit for limit in map(pids_limit, hierarchy(root, "pids").folders) if limit is not None]
    user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if user != resource.RLIM_INFINITY:
        allowed.append(user)
    if not allowed or min(allowed) >= needed:
        return Finding(TASKS, Mark.OK, f"{needed} at most of {min(allowed) if allowed else 'any number'}")
    advice = "raise it (systemd: TasksMax=; containers: --pids-limit; ulimit -u), or lower MAX_PROCESS_NUM"
    return Finding(TASKS, Mark.FAULT, f"up to {needed} may be needed, and {min(allowed)} are allowed", advice)


def pids_limit(folder: Path) -> int | None:
    """Return the limit of a cgroup; None: it has none."""
    try:
        text = (folder / "pids.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def memory(context: Context) -> Finding:
    """Check the memory for the node's own processes. How much a model needs is not known here."""
    settings, now = context.settings, Sampler().sample()
    needed = SUPERVISOR_BYTES + settings.worker_processes * WORKER_BYTES
    of = f"{megabytes(now.memory_limit_bytes)} ({now.memory_source}), {now.cpus:g} CPUs"
    text = f"{megabytes(now.memory_free_bytes)} free of {of}; the node itself takes about {megabytes(needed)}"
    if now.memory_free_bytes < needed:
        return Finding(MEMORY, Mark.FAULT, text, "give it more memory, or lower WORKER_PROCESSES")
    if now.memory_percent >= settings.memory_high:
        advice = "free some: above MEMORY_HIGH the node takes one task at a time"
        return Finding(MEMORY, Mark.WARNING, f"{text}; {now.memory_percent:.0f} % are in use", advice)
    return Finding(MEMORY, Mark.OK, text)


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / (1 << 20):,.0f} MB".replace(",", " ")


def folders() -> Finding:
    """Check the folders that the node writes to: sockets between the processes, and the memory that they share."""
    unwritable = unwritable_folder()
    if unwritable is not None:
        return Finding(FOLDERS, Mark.FAULT, *unwritable)
    return Finding(FOLDERS, Mark.OK, f"{tempfile.gettempdir()} and shared memory can be written to")
