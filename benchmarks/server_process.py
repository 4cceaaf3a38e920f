"""A test server in a process of its own, so that it does not share the interpreter with the load generator."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

STARTED_S = 30.0  # for an interpreter and its imports on a busy machine; 0.3 s on an idle one
STOPPED_S = 10.0


class ServerProcess:
    """The process of a test server, and the pipe to it.

    Args:
        main: runs in the process with its end of the pipe. It sends the port that it listens on, and returns when
            the pipe is closed.
    """

    def __init__(self, main: Callable[[Connection], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(STARTED_S):
            raise RuntimeError(f"{main.__module__} did not start within {STARTED_S:g} s")
        self.port: int = self.pipe.recv()

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join(STOPPED_S)
        if self.process.is_alive():
            self.process.kill()
