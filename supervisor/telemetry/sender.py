"""The telemetry process: reads what ended from its standard input, and hands it to OpenTelemetry's SDK.

A process of its own, with the lowest priority, so that making and sending spans takes no time from tasks. It ends when
its standard input does: when the supervisor closes it, or is gone.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from workernode import logs

log = logging.getLogger(__name__)

LOWEST_PRIORITY = 19
FLUSH_LIMIT = 2.0  # seconds that the last spans and metrics get


def main() -> None:
    """Send until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # they go to the whole group
        signal.signal(number, signal.SIG_IGN)
    messages = _messages(sys.stdin.buffer)
    settings, node = next(messages)
    logs.setup(settings)
    from supervisor.telemetry.exporter import OtelTelemetry

    # Only now: where others want all processors, importing the SDK would take minutes. Threads inherit it.
    os.nice(LOWEST_PRIORITY)
    telemetry = OtelTelemetry(settings, node)
    has_failed = False
    for batch in messages:  # of spans.Ended
        for ended in batch:
            try:
                telemetry.add(ended)
            except Exception:
                if not has_failed:
                    log.exception("no span of a task could be made", extra={"event": "telemetry_failed"})
                has_failed = True
    threading.Timer(FLUSH_LIMIT + 1.0, os._exit, [1]).start()  # whatever hangs
    telemetry.close(FLUSH_LIMIT)
    logging.shutdown()
    os._exit(0)


def _messages(stream: BinaryIO) -> Iterator[Any]:
    """What the supervisor has sent, until it closes the stream or dies in the middle of a message."""
    while True:
        try:
            yield pickle.load(stream)  # noqa: S301  # from our own parent
        except (EOFError, pickle.UnpicklingError):
            return


if __name__ == "__main__":
    main()
