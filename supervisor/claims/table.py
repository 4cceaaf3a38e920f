"""Who holds which task, by the order of the messages in the topic of claims. Pure.

Every node that reads the same messages gets the same table: the first claim of a task wins.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Annotated, TypeAlias

import msgspec

# Names of nodes and request ids. Longer ones are no node's, and what this node would publish about them might be too
# large for the broker.
Id: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024)]


class ClaimState(Enum):
    """How far the holder of a task has come."""

    TAKEN = "taken"  # it works on the task; nothing of a stream has left
    BEGUN = "begun"  # it may have sent a part of a stream
    ENDED = "ended"  # the end of its stream is about to leave


class ClaimMessage(msgspec.Struct, omit_defaults=True):
    """One message in the topic of claims: what one node has to report of some moments. Without more than the name of
    the node and its serial it is a sign of life.
    """

    node: Id  # unique for each start of a node
    taken: list[Id] = []  # request ids that it begins to work on
    begun: list[Id] = []  # request ids of streams of which the first frame is about to leave
    ended: list[Id] = []  # request ids of streams of which the end is about to leave
    released: list[Id] = []  # request ids that it has given back to the broker
    withdrawn: list[Id] = []  # likewise, and nothing of an answer has left this node, whatever was announced
    suspects: list[Id] = []  # nodes that may be gone
    takes: list[tuple[Id, Id]] = []  # request ids that it takes over, and from which node
    serial: int = 0  # grows with each message of the node; one that is sent again keeps its own
    unended: list[Id] = []  # given back as well, and the end of the stream has not left, whatever was announced
    recorded: list[Id] = []  # request ids of which the final record is stored: whoever gets one of them acks it


@dataclass(slots=True)
class Claim:
    """The claim of one task."""

    holder: str  # the node; "": it has given the task back
    state: ClaimState
    noted_at: float  # monotonic
    supersedes: str = ""  # the node that it was taken over from, or that has given it back after its stream had begun
    was_given_back: bool = False  # a node has had the message before, and has given it back to the broker
    is_begun_before: bool = False  # a node that had it before may have sent a part of the stream
    is_recorded: bool = False  # its final record is stored
    next_holders: tuple[str, ...] = ()  # nodes that have claimed it while another held it, in this order


def decode(data: bytes) -> ClaimMessage | None:
    """Return a message of the topic; None if it is not one."""
    try:
        return msgspec.json.decode(data, type=ClaimMessage)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def encode(message: ClaimMessage) -> bytes:
    """Return the bytes of a message."""
    return msgspec.json.encode(message)


class ClaimTable:
    """The claims as they stand after the messages that were applied."""

    def __init__(self) -> None:
        # By request id, oldest first. There is one for each task of the last minutes, of all nodes.
        self._claims: dict[str, Claim] = {}
        self._suspected_by: dict[str, set[str]] = {}  # node → nodes that suspect it since its last message
        self._serials: dict[str, int] = {}  # node → the serial of its last message

    def __len__(self) -> int:
        return len(self._claims)

    def get(self, request_id: str) -> Claim | None:
        """Return the claim of a task; None if nobody holds it."""
        return self._claims.get(request_id)

    def is_held_by(self, request_id: str, node: str) -> bool:
        """Return True if the node holds the task."""
        claim = self._claims.get(request_id)
        return claim is not None and claim.holder == node

    def is_suspected(self, node: str, by: str) -> bool:
        """Return True if `by` has suspected the node and no message of the node has come since."""
        return by in self._suspected_by.get(node, ())

    def apply(self, message: ClaimMessage, now: float) -> bool:
        """Take in the next message of the topic.

        A message that is sent again is stored twice if only its receipt was lost: then it is a sign of life and no
        more. What comes after a later message of its node was sent before that one, by a producer that was closed
        meanwhile (seen on 4.0.8): it shows nothing, not even that the node lives.

        Args:
            now: monotonic.

        Returns:
            False if the message came after a later one of its node.
        """
        node = sys.intern(message.node)  # many claims share the name
        last = self._serials.get(node, 0)
        if message.serial < last:
            return False
        self._serials[node] = message.serial
        self._suspected_by.pop(node, None)
        if not message.serial or message.serial > last:
            self._apply_new(message, node, now)
        return True

    def _apply_new(self, message: ClaimMessage, node: str, now: float) -> None:
        for suspect in message.suspects:
            self._suspected_by.setdefault(suspect, set()).add(node)
        for request_id in message.taken:
            claim = self._claims.get(request_id)
            if claim is None:
                self._claims[request_id] = Claim(node, ClaimState.TAKEN, now)
            elif claim.holder in (node, ""):
                claim.holder = node
                self.keep(request_id, now)
            elif node not in claim.next_holders:
                claim.next_holders = (*claim.next_holders, node)
        for request_id in message.begun:
            self._advance(request_id, node, ClaimState.BEGUN, now)
        for request_id in message.ended:
            self._advance(request_id, node, ClaimState.ENDED, now)
        self._take_back(message)
        for request_id, holder in message.takes:
            self._take_over(request_id, holder, node, now)
        for request_id in message.recorded:
            claim = self._claims.setdefault(request_id, Claim(node, ClaimState.ENDED, now))
            claim.is_recorded = True
            self.keep(request_id, now)

    def keep(self, request_id: str, now: float) -> None:
        """Remember a claim for as long as one that was noted now."""
        if (claim := self._claims.get(request_id)) is not None:
            claim.noted_at = now
            self._put_last(request_id, claim)

    def forget_before(self, moment: float) -> None:
        """Forget the claims that were noted before this moment: nobody waits for their answers any more."""
        claims = self._claims
        for request_id in list(takewhile(lambda each: claims[each].noted_at < moment, claims)):
            del claims[request_id]

    def _advance(self, request_id: str, node: str, state: ClaimState, now: float) -> None:
        claim = self._claims.get(request_id)
        if claim is None:
            self._claims[request_id] = Claim(node, state, now)
        elif (claim.holder in (node, "") and claim.state is not ClaimState.ENDED) or _has_lost_it(claim):
            claim.holder, claim.state, claim.noted_at = node, state, now
            claim.next_holders = _without(claim.next_holders, node)
            self._put_last(request_id, claim)

    def _take_back(self, message: ClaimMessage) -> None:
        """A node has given tasks back."""
        node = message.node
        for request_id in message.released:
            if (claim := self._left(request_id, node)) is not None and claim.state is not ClaimState.ENDED:
                _free(claim, is_begun=claim.state is ClaimState.BEGUN)
        for request_id in message.unended:
            if (claim := self._left(request_id, node)) is not None:
                _free(claim, is_begun=True)
        for request_id in message.withdrawn:
            if (claim := self._left(request_id, node)) is not None:
                _free(claim, is_begun=claim.is_begun_before)

    def _left(self, request_id: str, node: str) -> Claim | None:
        """A node has given a task back. Returns the claim if the node holds it."""
        claim = self._claims.get(request_id)
        if claim is None or claim.holder == node:
            return claim
        claim.next_holders = _without(claim.next_holders, node)
        return None

    def _take_over(self, request_id: str, holder: str, node: str, now: float) -> None:
        claim = self._claims.get(request_id)
        if claim is None or claim.holder != holder or claim.is_recorded:
            return
        if self.is_suspected(holder, node):
            is_begun = claim.is_begun_before or claim.state is not ClaimState.TAKEN
            others = _without(claim.next_holders, node)
            taken_over = Claim(
                node, claim.state, now, supersedes=holder, is_begun_before=is_begun, next_holders=others
            )
            self._put_last(request_id, taken_over)

    def _put_last(self, request_id: str, claim: Claim) -> None:
        del self._claims[request_id]
        self._claims[request_id] = claim


def _free(claim: Claim, *, is_begun: bool) -> None:
    """Its holder gives the task back. If its stream has begun, whoever claims it next, or has claimed it, ends it."""
    if is_begun:
        claim.state, claim.supersedes, claim.is_begun_before = ClaimState.BEGUN, claim.holder, True
    else:
        claim.state = ClaimState.TAKEN
    claim.holder, claim.was_given_back = "", True
    if claim.next_holders:
        claim.holder, *others = claim.next_holders
        claim.next_holders = tuple(others)


def _without(nodes: tuple[str, ...], node: str) -> tuple[str, ...]:
    return tuple(each for each in nodes if each != node) if node in nodes else nodes


def _has_lost_it(claim: Claim) -> bool:
    """Return True if the holder has lost the message before it has begun, should another node report that it has.

    That one got the message a moment after the holder had claimed it, so that it did not read the claims
    (freshness.py): the holder was killed. Where the task was taken over, or given back, the report may be a late one of
    the node that had it before.
    """
    return claim.state is ClaimState.TAKEN and not claim.supersedes and not claim.was_given_back
