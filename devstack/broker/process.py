"""One server process of Pulsar's: spawned in a group of its own, stopped, killed, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_GRACE_S = 10.0  # a server stops in half a second when nothing hangs
# Runs the command after the parent's pid. The kernel kills it when the parent ends.
TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Server:
    """A process that leads a process group of its own. On Linux it ends with the *thread* that spawned it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> None:
        """Spawn it; what it prints is added to its log."""
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid()), *command]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop it in order
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, but not longer. Return whether it has ended."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Ask it to end, and kill it after the grace period."""
        self._signal(signal.SIGTERM)
        if not self.wait(STOP_GRACE_S):
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group, as in a crash."""
        self._signal(signal.SIGKILL)
        self.wait(STOP_GRACE_S)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.killpg(self.pid, number)
