"""One child process in a process group of its own: spawned, listened to, signalled, gone when the supervisor is gone.

This room knows nothing of models and of log lines. Its two threads only report: what the child wrote, how it left.
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

# The shell that becomes the child. Before it does, it leaves a guard in the group: a subshell (about 0.3 MB) that reads
# a pipe of which only the supervisor holds the other end. Any death of the supervisor is an end of file, upon which the
# guard kills its own group, grandchildren too. The parent-death signal of Linux would follow the thread that spawned,
# is lost at the next fork, and does not exist on macOS. The guard also keeps the group's number from being given to
# somebody else while it may be signalled. The script is constant; the command comes in as its arguments.
GUARDED = """
exec 3<&0 </dev/null
(exec >/dev/null 2>&1; trap "" TERM INT HUP; read -r _; kill -KILL 0) <&3 &
exec 3<&-
exec "$@"
"""

READ_BYTES = 1 << 18  # at most so much is looked at in one go
FLOOD_PAUSE_S = 0.05  # after a flooded read: 5 MB/s get through, and the supervisor keeps its processor
PIPE_BYTES = 1 << 20  # what the child may write ahead of the reader; the most that Linux gives without privilege
LAST_OUTPUT_S = 2.0  # how long the end of the output may take once the child has left


class ChildProcess:
    """A running child. Made and signalled by the thread that owns it; the callbacks come from threads of its own.

    Args:
        command: what to run, found on PATH if it names no folder. It may `exec` something else.
        env: the whole environment of the child.
        on_output: gets the bytes as they come and b"" at the end; True from it means a flood: it is read more slowly.
        on_exit: gets the return code as subprocess has it (negative: the signal) once the output was read to its end.

    Raises:
        OSError: no process could be made.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        on_output: Callable[[bytes], bool],
        on_exit: Callable[[int], None],
    ) -> None:
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
        self._gone = threading.Event()
        output = cast(IO[bytes], self._process.stdout)
        self._reader = threading.Thread(target=read, args=(output, on_output), name="child-output", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, args=(on_exit,), name="child-exit", daemon=True).start()

    @property
    def pid(self) -> int:
        """The child's process id, which is the id of its group as well."""
        return self._process.pid

    def terminate(self) -> None:
        """Ask the group to leave."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the group at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._gone.is_set():
            return
        # Gone already is what was wanted; macOS says EPERM of a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _wait(self, on_exit: Callable[[int], None]) -> None:
        code = self._process.wait()
        self.kill()  # what it left behind in its group, the guard too
        self._gone.set()
        os.close(self._lifeline)
        self._reader.join(LAST_OUTPUT_S)  # a process that left the group may keep the pipe open
        on_exit(code)
        reap_group(self.pid)


def read(output: IO[bytes], on_output: Callable[[bytes], bool]) -> None:
    """Pass on what comes, to the end."""
    with output:
        grow_pipe(output.fileno())
        while data := output.read(READ_BYTES):
            if on_output(data):
                time.sleep(FLOOD_PAUSE_S)
    on_output(b"")


def grow_pipe(descriptor: int) -> None:
    """Let the pipe hold more, where the system can (Linux): a burst of output then never waits for the reader."""
    with contextlib.suppress(ImportError, OSError):
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(descriptor, F_SETPIPE_SZ, PIPE_BYTES)


def reap_group(group: int) -> None:
    """Reap what the group left to this process, which inherits orphans if it is PID 1 of a container."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)
