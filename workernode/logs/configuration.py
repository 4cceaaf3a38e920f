"""Sends this process's log to stderr, as the settings want it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable
from types import TracebackType

from workernode.logs.formats import JsonLines, TextLines
from workernode.logs.handler import LineHandler
from workernode.logs.output import Output
from workernode.redaction import Redactor
from workernode.settings import Settings

OURS = ("workernode", "supervisor", "devstack")  # the log leaves out INFO and DEBUG lines of other libraries


def setup(settings: Settings, *, worker: int | None = None) -> None:
    """Set up the log of this process. Each process calls it once, as early as it can.

    Args:
        worker: the number of the worker process; None in the supervisor.
    """
    as_json = settings.log_format == "json" or (settings.log_format is None and not os.isatty(2))
    configure(as_json, settings.debug, settings.secrets, model=settings.model_name, worker=worker)


def configure(
    as_json: bool = True, debug: bool = False, secrets: Iterable[str] = (), *, fd: int = 2, **static: object
) -> LineHandler:
    """Set up the log of a process that has no settings (yet).

    Args:
        static: fields that every line has; a field that is None is left out.
    """
    kept = {name: value for name, value in static.items() if value is not None}
    redactor = Redactor(secrets, as_json=as_json)
    formatter = JsonLines(redactor, kept) if as_json else TextLines(redactor)
    handler = LineHandler(Output(fd), formatter)
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, LineHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    # No line shows these, so they need not be looked up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the caller's place (Python's logging HOWTO, "Optimization")
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    return handler


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("workernode").critical(
        "unexpected %s", kind.__name__, exc_info=(kind, error, trace), extra={"event": "uncaught"}
    )


def _log_uncaught_in_thread(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and not issubclass(about.exc_type, SystemExit):
        _log_uncaught(about.exc_type, about.exc_value, about.exc_traceback)
