"""Reads the settings again while the node runs: on SIGHUP, and when the file of a secret changes.

A thread of its own reads files, because a slow disk must not stop the owner's loop. It posts what it found.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import fields, replace

from supervisor.events import Event, ReloadFailed, SettingsReloaded
from workernode import redaction
from workernode.settings import FILE_VARIABLES, Settings, SettingsError

log = logging.getLogger(__name__)

# Kubernetes replaces mounted secrets a minute or so after they changed, so that a second more does not count.
CHECK_INTERVAL_S = 1.0
# These can change while the node runs. All others are read at the start only.
ROTATED = (*FILE_VARIABLES, *FILE_VARIABLES.values())

Stamp = tuple[int, int, int]  # of a file: inode, time of its last change in nanoseconds, size


class Reloader:
    """Watches the files of secrets. `start` and `reload` are called by the thread that owns the node's state.

    Args:
        settings: those that the node was started with.
        read: reads environment, `.env` and files again; raises SettingsError.
        post: takes events from any thread.
        interval_s: seconds between two checks of the files.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        post: Callable[[Event], None],
        interval_s: float = CHECK_INTERVAL_S,
    ) -> None:
        self._settings = settings
        self._read = read
        self._post = post
        self._interval_s = interval_s
        self._is_asked = threading.Event()
        self._had_terminal = _has_terminal()
        self._stamps = _stamps(settings)
        self._last_faults: tuple[str, ...] = ()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="reload", daemon=True).start()

    def reload(self) -> None:
        """Read everything again now, and report it even if nothing changed."""
        self._is_asked.set()

    def takes_signal(self, number: int) -> bool:
        """Deal with a signal; False if it asks to stop."""
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            name = signal.Signals(number).name
            log.warning("%s has no meaning for this program", name, extra={"event": "signal_ignored"})
            return True
        if number == signal.SIGHUP and not (self._had_terminal and not _has_terminal()):
            self.reload()
            return True
        return False  # SIGHUP of a terminal that was closed is one, too

    def _run(self) -> None:
        while True:
            is_asked = self._is_asked.wait(self._interval_s)
            self._is_asked.clear()
            self.check(is_asked=is_asked)

    def check(self, *, is_asked: bool = False) -> None:
        """Read the settings again if a file changed, or if it is asked for."""
        stamps = _stamps(self._settings)
        if not is_asked and stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            new = self._read()
        except SettingsError as error:
            if is_asked or error.faults != self._last_faults:
                self._last_faults = error.faults
                self._post(ReloadFailed(error.faults))
            return
        self._last_faults = ()
        redaction.add_secrets(new.secrets)  # before anything can be logged about them
        different = [each.name.upper() for each in fields(Settings) if _differ(self._settings, new, each.name)]
        changed = tuple(name for name in different if name in ROTATED)
        self._settings = replace(self._settings, **{name.lower(): getattr(new, name.lower()) for name in changed})
        self._stamps = _stamps(self._settings)
        if changed or is_asked:
            need_restart = tuple(name for name in different if name not in ROTATED)
            self._post(SettingsReloaded(self._settings, changed, need_restart))


def log_reload(event: SettingsReloaded | ReloadFailed) -> None:
    """Log which variables changed, never a value."""
    if isinstance(event, ReloadFailed):
        faults = "; ".join(event.faults)
        log.error("the new settings cannot be used, the old ones stay: %s", faults, extra={"event": "reload_failed"})
        return
    text = f"changed: {', '.join(event.changed) or 'nothing'}"
    if event.need_restart:
        text += f"; to be changed by a restart: {', '.join(event.need_restart)}"
    about = {"event": "settings_reloaded", "changed": event.changed, "need_restart": event.need_restart}
    log.info("the settings were read again; %s", text, extra=about)


def _differ(old: Settings, new: Settings, name: str) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


def _stamps(settings: Settings) -> dict[str, Stamp | None]:
    """Return a value for each file that changes with it. A symbolic link is followed, because Kubernetes swaps one."""
    paths = (getattr(settings, name.lower()) for name in FILE_VARIABLES.values())
    return {path: _stamp(path) for path in paths if path}


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
