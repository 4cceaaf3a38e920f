"""A child's output as log lines: bytes in, lines out, bounded whatever the child writes.

Too many lines become a count, an overlong line is cut, the last lines are kept for the report. One thread feeds it;
any thread may read the tail. It must not know of processes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from workernode.redaction import hide_secrets

LINE_LIMIT = 2_000  # characters; a longer line is cut: progress bars, dumped prompts
TAIL_LINES = 60  # kept for the report; a crash of llama.cpp prints about 40
LINES_BURST = 1_000  # lines logged at once; llama.cpp prints about 300 while it loads
LINES_PER_S = 100.0  # lines logged for long; llama.cpp prints about 8 a request


class LineSplitter:
    """Splits bytes at LF, CR (a progress bar rewrites its line) or both; blank lines are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now."""
        *whole, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[: LINE_LIMIT * 4]  # a character has at most four bytes
        return [line for line in whole if line and not line.isspace()]

    def end(self) -> list[bytes]:
        """Return what came without an end of line."""
        return self.feed(b"\n")


class OutputLog:
    """The output of one child on its way to the log."""

    def __init__(
        self,
        write: Callable[[str], None],
        secrets: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without output.

        Args:
            write: logs one line.
            secrets: hidden (workernode/redaction.py); the child knows them and might print them.
            clock: seconds, monotonic.
        """
        self.bytes_seen = 0  # any byte is a sign of life, also the dots of a progress bar that ends no line
        self._write, self._secrets, self._clock = write, tuple(secrets), clock
        self._splitter = LineSplitter()
        self._allowed, self._allowed_at = float(LINES_BURST), clock()
        self._left_out = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()  # for the tail only; not held across I/O

    def feed(self, data: bytes) -> bool:
        """Log the complete lines.

        Args:
            data: what the child wrote; b"" at its end.

        Returns:
            True if these were too many lines and some were left out.
        """
        self.bytes_seen += len(data)
        lines = self._splitter.feed(data) if data else self._splitter.end()
        allowed = self._refill()
        shown = [self._text(line) for line in lines[:allowed]]
        left_out = len(lines) - len(shown)
        self._allowed -= len(shown)
        with self._lock:
            self._tail.extend(shown[-TAIL_LINES:] if not left_out else map(self._text, lines[-TAIL_LINES:]))
        if self._left_out and (shown or not data):
            self._write(f"({self._left_out} lines left out here: more than {LINES_PER_S:.0f} a second)")
            self._left_out = 0
        for line in shown:
            self._write(line)
        self._left_out += left_out
        return left_out > 0

    def tail(self) -> list[str]:
        """Return the last lines, oldest first, including those that the log left out."""
        with self._lock:
            return list(self._tail)

    def _refill(self) -> int:
        now = self._clock()
        self._allowed = min(LINES_BURST, self._allowed + (now - self._allowed_at) * LINES_PER_S)
        self._allowed_at = now
        return int(self._allowed)

    def _text(self, line: bytes) -> str:
        decoded = line[: LINE_LIMIT * 4].decode("utf-8", "replace").rstrip()
        decoded = hide_secrets(decoded, self._secrets)
        return decoded if len(decoded) <= LINE_LIMIT else decoded[:LINE_LIMIT] + " …"
