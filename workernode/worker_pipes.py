"""A worker's ends of its two pipes: jobs come in and become tasks of the hub, and what tasks report goes out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

from workernode.net.hub import Hub
from workernode.net.waiting import FOREVER, WRITE
from workernode.pipe import PIECE, Unpacker, pack
from workernode.protocol import FromWorker, Granted, Hold, Job, Stop, Target, ToWorker
from workernode.upstream import Upstream

log = logging.getLogger(__name__)


class Inbox:
    """Reads the supervisor's messages, and has each job run as a task of the hub.

    Args:
        fd: the reading end of the pipe.
        upstream: gets holds and targets.
        run: runs a job and never raises. If it does raise, the process exits: the supervisor then decides the tasks of
            this worker, while a job that just ended would keep its slot for good.
        granted: takes the supervisor's answers to ClaimAsked.
    """

    def __init__(
        self, fd: int, hub: Hub, upstream: Upstream, run: Callable[[Job], None], granted: Callable[[Granted], None]
    ) -> None:
        self._fd = fd
        self._hub = hub
        self._upstream = upstream
        self._run = run
        self._granted = granted
        self._unpacker: Unpacker[ToWorker] = Unpacker()
        hub.on_readable(fd, self._read)

    def _read(self) -> None:
        piece = os.read(self._fd, PIECE)
        if not piece:  # the supervisor is gone
            self._hub.stop()
        for message in self._unpacker.feed(piece):
            match message:
                case Job():
                    self._hub.start(partial(self._run_job, message))
                case Granted():
                    self._granted(message)
                case Hold():
                    self._upstream.set_hold(message)
                case Target():
                    self._upstream.set_target(message)
                case Stop():
                    self._hub.stop()

    def _run_job(self, job: Job) -> None:
        try:
            self._run(job)
        except Exception:
            log.critical("a job failed; the worker exits", exc_info=True, extra={"event": "job_failed"})
            os._exit(1)


class Outbox:
    """What tasks put in one turn of the hub leaves in one write, so that the supervisor wakes up once for all of it."""

    def __init__(self, fd: int, hub: Hub) -> None:
        self._fd = fd
        self._hub = hub
        self._messages: list[bytes] = []
        os.set_blocking(fd, False)

    def put(self, message: FromWorker) -> None:
        """Write the message soon, after those that were put before; never waits. Called by tasks of the hub."""
        self._messages.append(pack(message, check=True))
        if len(self._messages) == 1:
            self._hub.start(self._write)

    def _write(self) -> None:
        """The task: write all that was put, and wait while the supervisor is slow to read."""
        while count := len(self._messages):
            data = memoryview(b"".join(self._messages))
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    self._hub.wait(((self._fd, WRITE),), FOREVER)
            del self._messages[:count]  # not before: a message that is put meanwhile starts no second writer
