"""`workernode-records`: shows billing records as they come, or added up. Reads the topic and consumes nothing."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from supervisor.broker import Access, NoConnection, NoRecords, Published, read_records, short_name, whole_name
from supervisor.records import show
from supervisor.records.options import parser
from supervisor.records.sums import Record, Sums
from workernode.record import rfc3339
from workernode.settings import VARIABLES, SettingsError, read_environment

DONE, FAILED, USAGE = 0, 1, 2  # exit codes: done; the topic cannot be read; the arguments are wrong (argparse's)
INTERRUPTED = 130  # exit code after Ctrl-C, as shells use it
REDRAW = 0.25  # seconds between two updates of the progress line


@dataclass(frozen=True, slots=True)
class Source:
    """Where the records are read."""

    access: Access
    topic: str
    since: float  # seconds since the epoch


class ProgressLine:
    """One line on a terminal that is overwritten again and again. Writes nothing if the stream is no terminal."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._is_terminal = stream.isatty()
        self._next = 0.0
        self._shown = False

    def due(self) -> bool:
        """Whether the line should be updated now."""
        return self._is_terminal and self._clock() >= self._next

    def show(self, text: str) -> None:
        """Show the text in place of the last one."""
        self._next = self._clock() + REDRAW
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Erase the line."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    try:
        environ = read_environment(os.environ, Path(".env"))
    except SettingsError as error:
        print(f"workernode-records: {error}", file=sys.stderr)
        return USAGE
    options = parser(environ).parse_args(arguments)
    source = Source(access_of(options, environ), topic_of(options, environ), options.since)
    try:
        return tail(source, options.form) if options.command == "tail" else add_up(source, options.by, options.form)
    except (NoConnection, NoRecords) as error:
        print(f"workernode-records: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def access_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Access:
    """Return how to reach the broker: by the options, and by the node's variables for TLS and OAuth2."""
    ca, cert, key, oauth2 = (
        environ.get(f"PULSAR_{name}", "").strip() for name in ("TLS_CA", "TLS_CERT", "TLS_KEY", "OAUTH2")
    )
    return Access(options.url, options.token, ca, cert, key, oauth2)


def topic_of(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return the whole name of the records' topic."""
    namespace = environ.get("PULSAR_NAMESPACE", "").strip() or str(VARIABLES["PULSAR_NAMESPACE"].default)
    return whole_name(options.topic, namespace)


def tail(source: Source, form: str) -> int:
    """Show records as they come, until Ctrl-C."""
    sums, progress, screen = Sums([]), ProgressLine(sys.stderr), Screen(form, sys.stdout)
    try:
        for message in messages(source, follow=True):
            record = sums.add(message.data) if message else None
            if message and record is not None:
                progress.clear()
                screen.show(record, message.data)
            if progress.due():
                progress.show(so_far(sums))
    except KeyboardInterrupt:  # the only way to end it
        pass
    finally:
        progress.clear()
    return DONE


class Screen:
    """Writes the lines of `tail`. On a terminal it cuts them at its width and repeats the header line on each page."""

    def __init__(self, form: str, stream: TextIO) -> None:
        self._form, self._stream = form, stream
        self._on_terminal = stream.isatty()
        self._lines = 0

    def show(self, record: Record, data: bytes) -> None:
        """Write one record.

        Args:
            record: what was parsed.
            data: the message that it was parsed from.
        """
        width, height = shutil.get_terminal_size() if self._on_terminal else (0, 0)
        header_due = self._lines % max(2, height - 2) == 0 if height else self._lines == 0
        self._lines += 1
        match self._form:
            case "json":
                text = data.decode() + "\n"
            case "csv":
                header = show.csv_lines([show.TAIL]) if self._lines == 1 else ""
                text = header + show.csv_lines([show.tail_row(record).values()])
            case _:
                text = (show.tail_head(width) if header_due else "") + show.tail_line(show.tail_row(record), width)
        self._stream.write(text)
        self._stream.flush()


def so_far(sums: Sums) -> str:
    """Return the totals so far in one line."""
    total = sums.total
    return f"{show.shown(total.requests)} requests, {total.errors} errors, {show.shown(total.total_tokens)} tokens"


def add_up(source: Source, by: tuple[str, ...], form: str) -> int:
    """Show the sums of all records up to now."""
    sums, progress, now = Sums(by), ProgressLine(sys.stderr), time.time()
    try:
        for message in messages(source, follow=False):
            if message:
                sums.add(message.data)
                if progress.due():
                    share = (message.at - source.since) / max(1.0, now - source.since)
                    progress.show(f"{min(1, max(0, share)):4.0%}  {so_far(sums)}")
    finally:
        progress.clear()
    about = {"topic": short_name(source.topic), "since": rfc3339(source.since), "until": rfc3339(now)}
    match form:
        case "json":
            text = show.sums_json(sums, **about)
        case "csv":
            text = show.sums_csv(sums)
        case _:
            text = f"{about['topic']}, {about['since']} to {about['until']}\n{show.table(sums)}"
            if sums.unreadable:
                text += f"{sums.unreadable} messages of the topic are not records and were skipped\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    return DONE


def messages(source: Source, *, follow: bool) -> Iterator[Published | None]:
    """Read the topic."""
    return read_records(source.access, source.topic, source.since, follow=follow)
