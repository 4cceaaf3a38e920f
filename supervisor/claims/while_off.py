"""What became of this node's claims while the topic of claims could not be used. Pure."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from supervisor.claims.outbox import ClaimOutbox
from supervisor.events import ClaimsOpened

log = logging.getLogger(__name__)


class WhileOff:
    """Keeps what the other nodes must learn once claims can be used again: they take this node for the holder of the
    tasks that it held before, and leave those to it for as long as it lives.
    """

    def __init__(self) -> None:
        self._held: set[str] = set()  # request ids that this node may hold in the topic
        self._ended: dict[str, str] = {}  # request id → what is to be published, a list of ClaimMessage
        self._begun: set[str] = set()  # request ids of streams that may have begun unasked before they were given back
        self._reason = ""  # why claims cannot be used, as it was logged; "": they can

    def log(self, event: ClaimsOpened) -> None:
        """Log that claims cannot be used, once for each reason, and that they can be used again."""
        text = "claims cannot be used: when a node or the broker fails, a client may get a text twice. Reason: %s"
        if event.is_refused and event.fault != self._reason:  # each new connection to the broker brings the same again
            log.warning(text, event.fault, extra={"event": "claims_off", "why": event.fault})
        elif self._reason and not event.fault:
            log.warning("claims can be used again", extra={"event": "claims_on"})
        if event.is_refused or not event.fault:
            self._reason = event.fault

    def begin(self, held: Collection[str], unsent: Mapping[str, str]) -> None:
        """Claims cannot be used from now on.

        Args:
            held: request ids of this node's claims.
            unsent: request id → what was not published yet of a task that is at this node no more.
        """
        self._ended.update(unsent)
        self._held = {*held, *self._ended}

    def given_back(self, request_id: str, has_left: bool, asked_to_end: bool) -> None:
        """A task goes back to the broker.

        Args:
            has_left: as for Claims.given_back.
            asked_to_end: the end of its stream was announced.
        """
        if request_id not in self._held:
            return
        if has_left:
            self._ended[request_id] = "unended" if asked_to_end else "released"
            self._begun.add(request_id)
        else:
            self._ended[request_id] = "withdrawn"

    def recorded(self, request_id: str) -> None:
        """The final record of a task is stored."""
        if request_id in self._held:
            self._ended[request_id] = "recorded"

    def end(self, outbox: ClaimOutbox, own: Collection[str]) -> None:
        """Claims can be used again: publish what was kept.

        Args:
            own: request ids of the tasks that are at this node now.
        """
        for request_id, what in self._ended.items():
            if request_id in own:
                continue
            if what in ("released", "unended") and request_id in self._begun:
                outbox.again(request_id, is_begun=True)
            outbox.add(what, request_id)
        self._held, self._ended, self._begun = set(), {}, set()
