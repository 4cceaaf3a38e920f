"""Messages that may be at another node too: what the claims show, and what is done when that node is gone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from supervisor.claims.outbox import ClaimOutbox
from supervisor.claims.table import Claim, ClaimMessage, ClaimState, ClaimTable

# A node that was suspected, and has published nothing for LIFE seconds since that was stored, is gone. LIFE is longer
# than the lease of its streams (claims.LEASE): nothing of them leaves any more.
LIFE = 18.0
SILENCE = 4.0  # seconds without a message after which a node is suspected; it gives a sign of life every 2 s
# Seconds that a task waits to know whether another node holds it. Without an answer it is run; its stream then waits
# with the first frame until that is known.
LOOK_UP_LIMIT = 10.0
# Seconds after the end of a task's time for which it is left to a node that lives and does not end it.
GRACE = 10.0
FORGET_INTERVAL = 5.0  # seconds between two searches for claims that are too old; each search costs time
FOLLOW_INTERVAL = 0.25  # seconds between two looks at what waits for another node


class Finding(Enum):
    """What the claims show about a message that was looked up."""

    SERVE = "serve"  # this node holds the claim: the task is run
    NOT_KNOWN = "not_known"  # nothing was found out in time: the task is run, and a stream waits with its first frame
    END_STREAM = "end_stream"  # the node that had begun its stream is gone: the client gets an error and the end
    ENDED = "ended"  # another node has answered it, and its record is stored: it is acked
    UNRECORDED = "unrecorded"  # likewise, but the node is gone and has left no record: it is acked once there is one
    HELD = "held"  # another node works on it: it waits without a slot, and another finding follows
    GIVE_BACK = "give_back"  # its time is over, and the node that holds it has not ended it: it is nak'd


# What becomes of a task that is this node's, by how far the node has come that had it before.
FINDINGS = {
    ClaimState.TAKEN: Finding.SERVE,
    ClaimState.BEGUN: Finding.END_STREAM,
    ClaimState.ENDED: Finding.UNRECORDED,
}


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a look-up."""

    number: int  # of the delivery
    request_id: str
    finding: Finding
    # HELD, ENDED: the node that holds it; END_STREAM, SERVE, UNRECORDED: the node that it was taken over from
    node: str = ""
    was_given_back: bool = False  # SERVE: another node, or this one, had the message before
    claimed_at: float = 0.0  # END_STREAM, SERVE: monotonic; when the claim was sent that has made the task this node's


@dataclass(slots=True)
class _LookUp:
    request_id: str
    since: float  # monotonic
    until: float  # monotonic: it is left to no other node after that
    mark: int  # it is decided once this mark was read back
    holder: str = ""  # the other node, once it is known
    takes_mark: int = 0  # the mark of the message that takes it over; 0: none was sent


@dataclass(slots=True)
class _Suspicion:
    mark: int
    since: float | None = None  # monotonic: when the suspicion was read back


class LookUps:
    """The messages that wait for what the claims show.

    Attributes:
        table: the claims as far as they were read.

    Args:
        node: the name of this node.
        outbox: publishes for this node.
    """

    def __init__(self, node: str, outbox: ClaimOutbox) -> None:
        self._node = node
        self._outbox = outbox
        self._forgets_from = 0.0  # monotonic: no claim is forgotten before
        self.table = ClaimTable()
        self._waiting: dict[int, _LookUp] = {}  # by the number of the delivery
        self._suspicions: dict[str, _Suspicion] = {}  # by node
        self._heard: dict[str, float] = {}  # node → monotonic time at which a message of it was read
        self._found: list[Found] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, now: float, number: int, request_id: str, deadline: float) -> None:
        """Look a message up; the result follows in `found`. The arguments are those of Claims.look_up."""
        self._outbox.taken(request_id)
        self._waiting[number] = _LookUp(request_id, now, max(now, deadline) + GRACE, self._outbox.next_mark())

    def remove(self, number: int) -> bool:
        """Forget a message that was decided otherwise; return whether it waited."""
        return self._waiting.pop(number, None) is not None

    def request_ids(self) -> list[str]:
        """Return the tasks that wait, and those of `found`: this node may hold them in the topic."""
        return [look.request_id for look in self._waiting.values()] + [found.request_id for found in self._found]

    def found(self) -> list[Found]:
        """Return what was found since the last call."""
        found, self._found = self._found, []
        return found

    def restart(self, now: float) -> None:
        """The topic is read from its beginning again."""
        self.table = ClaimTable()
        self._suspicions.clear()
        self._heard.clear()
        for look in self._waiting.values():  # decided again once the table is as far as their marks
            look.since, look.holder, look.takes_mark = now, "", 0

    def read(self, now: float, message: ClaimMessage) -> None:
        """The next message of the topic has come."""
        if not self.table.apply(message, now):
            return
        self._heard[message.node] = now
        self._suspicions.pop(message.node, None)
        if message.node != self._node:
            return
        for node, suspicion in self._suspicions.items():
            is_stored = suspicion.mark <= message.serial and self.table.is_suspected(node, self._node)
            if suspicion.since is None and is_stored:
                suspicion.since = now
        for number, look in list(self._waiting.items()):
            if look.mark <= message.serial:
                self._decide(now, number, look)

    def forget(self, now: float, remember_s: float) -> None:
        """Forget the claims that were read longer ago than so many seconds, and for which no message waits."""
        if now < self._forgets_from:
            return
        self._forgets_from = now + FORGET_INTERVAL
        for look in self._waiting.values():
            self.table.keep(look.request_id, now)
        self.table.forget_before(now - remember_s)

    def tick(self, now: float) -> None:
        """Look after what waits."""
        for number, look in list(self._waiting.items()):
            if look.holder:
                self._decide(now, number, look)
            elif now >= look.since + LOOK_UP_LIMIT:
                self._end(number, look, Finding.NOT_KNOWN)

    def next_tick(self, now: float) -> float:
        """Return the monotonic time at which `tick` has something to do."""
        return now + FOLLOW_INTERVAL if self._waiting else float("inf")

    def give_up(self) -> None:
        """The claims cannot be read: everything is run."""
        for number, look in list(self._waiting.items()):
            self._end(number, look, Finding.SERVE)

    # --- the parts ---

    def _decide(self, now: float, number: int, look: _LookUp) -> None:
        """Decide a message by the table, which is as far as its mark."""
        claim = self.table.get(look.request_id)
        if claim is not None and claim.is_recorded:
            self._end(number, look, Finding.ENDED, claim.holder)
        elif claim is None or not claim.holder:  # it was given back meanwhile
            self._outbox.taken(look.request_id)
            look.mark, look.holder, look.since = self._outbox.next_mark(), "", now
        elif claim.holder == self._node:
            self._end(number, look, FINDINGS[claim.state], claim.supersedes, claim.was_given_back)
        else:
            self._follow(now, number, look, claim)

    def _follow(self, now: float, number: int, look: _LookUp, claim: Claim) -> None:
        """Suspect the node that holds the task if it is silent, and take the task over when it is gone."""
        if look.holder != claim.holder:
            look.holder, look.takes_mark = claim.holder, 0
            self._found.append(Found(number, look.request_id, Finding.HELD, claim.holder))
        suspicion = self._suspicions.get(look.holder)
        if suspicion is None:
            look.takes_mark = 0
            if now >= self._heard.get(look.holder, 0.0) + SILENCE:
                self._outbox.suspect(look.holder)
                self._suspicions[look.holder] = _Suspicion(self._outbox.next_mark())
        is_gone = suspicion is not None and suspicion.since is not None and now >= suspicion.since + LIFE
        # A node that was only cut off has the record that counts; it gets the rest of the task's time to send it.
        is_to_be_taken = is_gone and (claim.state is not ClaimState.ENDED or now >= look.until)
        if is_to_be_taken and not look.takes_mark:
            self._outbox.take_over(look.request_id, look.holder)
            look.takes_mark = self._outbox.next_mark()
        elif now >= look.until and not look.takes_mark and claim.state is not ClaimState.ENDED:
            self._end(number, look, Finding.GIVE_BACK, claim.holder)

    def _end(self, number: int, look: _LookUp, finding: Finding, node: str = "", was_given_back: bool = False) -> None:
        del self._waiting[number]
        claimed_at = self._outbox.sent_at(look.takes_mark or look.mark)
        self._found.append(Found(number, look.request_id, finding, node, was_given_back, claimed_at))
