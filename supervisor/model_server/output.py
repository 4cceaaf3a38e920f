"""What a child writes, as log lines: bytes in, lines out, in bounds whatever the child does.

This room knows nothing of processes. A flood is folded into a count, an overlong line is cut, the last lines are kept
for the report. Fed by one thread; the tail may be read by any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

LINE_LIMIT = 2_000  # characters; a longer line is cut: progress bars, dumped prompts
TAIL_LINES = 60  # kept for the report; a crash of llama.cpp prints about 40
LINES_BURST = 1_000  # lines let through at once; llama.cpp prints about 300 while it loads
LINES_PER_S = 100.0  # lines let through for long; llama.cpp prints about 8 a request
HIDDEN = "*****"


class LineSplitter:
    """Bytes in, lines out: ends are LF, CR (a progress bar rewrites its line) or both; blank lines are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now."""
        *whole, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[: LINE_LIMIT * 4]  # a character has at most four bytes
        return [line for line in whole if line and not line.isspace()]

    def end(self) -> list[bytes]:
        """What came without an end of line."""
        return self.feed(b"\n")


class OutputLog:
    """The output of one child on its way to the log.

    Args:
        write: logs one line.
        secrets: never shown; the child knows them and might print them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        secrets: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes_seen = 0  # any byte is a sign of life, also the dots of a progress bar that ends no line
        self._write, self._secrets, self._clock = write, [secret for secret in secrets if secret], clock
        self._splitter = LineSplitter()
        self._allowed, self._allowed_at = float(LINES_BURST), clock()
        self._left_out = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()  # for the tail only; not held across I/O

    def feed(self, data: bytes) -> bool:
        """Log what is whole; b"" means that no more comes. True: this is a flood, lines were left out."""
        self.bytes_seen += len(data)
        lines = self._splitter.feed(data) if data else self._splitter.end()
        room = self._room()
        shown = [self._text(line) for line in lines[:room]]
        over = len(lines) - len(shown)
        self._allowed -= len(shown)
        with self._lock:
            self._tail.extend(shown[-TAIL_LINES:] if not over else map(self._text, lines[-TAIL_LINES:]))
        if self._left_out and (shown or not data):
            self._write(f"({self._left_out} lines left out here: more than {LINES_PER_S:.0f} a second)")
            self._left_out = 0
        for line in shown:
            self._write(line)
        self._left_out += over
        return over > 0

    def tail(self) -> list[str]:
        """The last lines, oldest first, those that the log left out included."""
        with self._lock:
            return list(self._tail)

    def _room(self) -> int:
        now = self._clock()
        self._allowed = min(LINES_BURST, self._allowed + (now - self._allowed_at) * LINES_PER_S)
        self._allowed_at = now
        return int(self._allowed)

    def _text(self, line: bytes) -> str:
        decoded = line[: LINE_LIMIT * 4].decode("utf-8", "replace").rstrip()
        for secret in self._secrets:
            decoded = decoded.replace(secret, HIDDEN)
        return decoded if len(decoded) <= LINE_LIMIT else decoded[:LINE_LIMIT] + " …"
