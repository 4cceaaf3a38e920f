"""The folders that a node needs: sockets between its processes, the memory that they share, its working directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SHARED_MEMORY = "/dev/shm"  # noqa: S108  # tried with a file of a name of its own
TMPDIR = "set TMPDIR to a folder that can (containers: --tmpfs /tmp)"
MOUNT = f"mount a tmpfs there (containers: --tmpfs {SHARED_MEMORY})"


def unwritable_folder() -> tuple[str, str] | None:
    """Return what cannot be written to and what to do; None if nothing is wrong."""
    for folder, advice in ((None, TMPDIR), (SHARED_MEMORY, MOUNT)):
        if folder and not Path(folder).is_dir():
            continue  # multiprocessing takes it only where there is one
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0")  # a disk that is full, or RLIMIT_FSIZE, shows only here
        except OSError as error:
            what = folder or "the folder for temporary files"
            return f"{what} cannot be written to ({error.strerror})", advice
    return None


def leave_unusable_directory() -> str:
    """Go to / if the working directory cannot be entered or is deleted, because a new process could not start there.

    Returns:
        Why it cannot be entered; "" if it can.
    """
    try:
        os.chdir(os.getcwd())  # as each new process of ours does
    except OSError as error:
        os.chdir("/")
        return str(error.strerror)
    return ""
