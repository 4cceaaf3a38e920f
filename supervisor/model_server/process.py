"""One child process in a process group of its own, which ends with the supervisor whatever happens to either.

It must not know of models and of log lines. Its two threads only report what the child wrote and how it exited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, cast

# The shell that becomes the child. Before that it starts a guard in the group: a subshell (about 0.3 MB) that reads a
# pipe of which only the supervisor holds the other end. Any death of the supervisor is an end of file; the guard then
# kills its own group, grandchildren included. The parent-death signal of Linux would follow the thread that spawned,
# is lost at the next fork, and does not exist on macOS. The guard also keeps the kernel from giving the group's number
# to another group while it may be signalled. The script is constant; the command comes in as its arguments.
GUARDED = """
exec 3<&0 </dev/null
(exec >/dev/null 2>&1; trap "" TERM INT HUP; read -r _; kill -KILL 0) <&3 &
exec 3<&-
exec "$@"
"""

READ_BYTES = 1 << 18  # read at most so much at once
FLOOD_PAUSE_S = 0.05  # after a read of too many lines: 5 MB/s at most, so that the supervisor gets its processor
PIPE_BYTES = 1 << 20  # what the child may write ahead of the reader; the most that Linux gives without privilege
LAST_OUTPUT_S = 2.0  # how long the end of the output may take once the child has exited


class ChildProcess:
    """A running child. Made and signalled by the thread that owns it; the callbacks come from threads of its own."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        on_output: Callable[[bytes], bool],
        on_exit: Callable[[int], None],
    ) -> None:
        """Spawn it.

        Args:
            command: program and arguments; found on PATH if it names no folder. It may `exec` something else.
            env: the whole environment of the child.
            on_output: gets the bytes as they come and b"" at the end. If it returns True, the output is read slowly.
            on_exit: gets the exit code as subprocess has it (negative: the signal), after the end of the output.

        Raises:
            OSError: no process could be made.
        """
        guard_end, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", GUARDED, "child", *command],
                bufsize=0,
                stdin=guard_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        except OSError:
            os.close(self._lifeline)
            raise
        finally:
            os.close(guard_end)
        self._is_gone = threading.Event()
        output = cast(IO[bytes], self._process.stdout)
        self._reader = threading.Thread(target=read_output, args=(output, on_output), name="child-output", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, args=(on_exit,), name="child-exit", daemon=True).start()

    @property
    def pid(self) -> int:
        """The child's process id, which is the id of its group as well."""
        return self._process.pid

    def terminate(self) -> None:
        """Send SIGTERM to the group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._is_gone.is_set():
            return
        # A group that is gone needs no signal; macOS answers EPERM for a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _wait(self, on_exit: Callable[[int], None]) -> None:
        code = self._process.wait()
        self.kill()  # what is left of its group, the guard included
        self._is_gone.set()
        os.close(self._lifeline)
        self._reader.join(LAST_OUTPUT_S)  # a process that changed its group may keep the pipe open
        on_exit(code)
        reap_group(self.pid)


def read_output(output: IO[bytes], on_output: Callable[[bytes], bool]) -> None:
    """Pass on the output until its end."""
    with output:
        grow_pipe(output.fileno())
        while data := output.read(READ_BYTES):
            if on_output(data):
                time.sleep(FLOOD_PAUSE_S)
    on_output(b"")


def grow_pipe(descriptor: int) -> None:
    """Make the pipe larger, where the system can (Linux): the child does not wait for the reader in a burst."""
    with contextlib.suppress(ImportError, OSError):
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(descriptor, F_SETPIPE_SZ, PIPE_BYTES)


def reap_group(group: int) -> None:
    """Reap processes of the group that became children of this one: PID 1 of a container inherits orphans."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)
