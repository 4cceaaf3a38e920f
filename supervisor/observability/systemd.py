"""Messages to systemd: ready, status, watchdog, stopping (sd_notify(3)).

Without NOTIFY_SOCKET, which only a unit of Type=notify sets, nothing is sent. No function here raises, and none waits
longer than SEND_TIMEOUT: the main loop must not hang because systemd does.
"""

from __future__ import annotations

import os
import socket

# systemd takes a datagram at once; its queue is full only where systemd itself hangs.
SEND_TIMEOUT = 0.5  # seconds
LONGEST_STATUS = 300  # characters: `systemctl status` shows it in one line


def ready() -> bool:
    """Tell systemd that the node takes tasks: the unit is active from now on. Returns whether that was sent."""
    return _send("READY=1")


def status(text: str) -> bool:
    """Tell systemd in a sentence what the node does, for `systemctl status`. Returns whether that was sent."""
    return _send(_status(text))


def watchdog() -> bool:
    """Tell systemd that the main loop runs. To be called by that loop, at least every `watchdog_interval()`."""
    return _send("WATCHDOG=1")


def stopping(seconds: float) -> bool:
    """Tell systemd that the node stops and may take so many seconds, whatever TimeoutStopSec the unit has."""
    return _send("STOPPING=1", _extend(seconds))


def extend_timeout(seconds: float) -> bool:
    """Ask systemd to wait so many seconds more, counted from now, for the start or the stop."""
    return _send(_extend(seconds))


def watchdog_interval() -> float | None:
    """Return the seconds between two calls of `watchdog`: half of the unit's WatchdogSec, as sd_watchdog_enabled(3)
    advises. None: nobody watches this process.
    """
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):  # it was meant for the process that started this one
        return None
    limit = os.environ.get("WATCHDOG_USEC", "")
    return int(limit) / 2e6 if limit.isascii() and limit.isdigit() and int(limit) > 0 else None


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={max(0, round(seconds * 1e6))}"


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())[:LONGEST_STATUS]  # a line end would begin another message


def _send(*lines: str) -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # Linux's abstract sockets: the name begins with a zero byte
        address = "\0" + address[1:]
    message = "\n".join(lines).encode("utf-8", "replace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_TIMEOUT)
            sender.connect(address)
            sender.sendall(message)
    except OSError:  # systemd is gone or hangs; the node serves all the same
        return False
    return True
