"""The claims of one node, under a clock that the test moves."""

from __future__ import annotations

import msgspec

from supervisor.claims import Claims, Finding
from supervisor.claims.claims import KEPT_BEYOND
from supervisor.claims.table import ClaimMessage, decode, encode
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Received
from workernode.protocol import Granted

FAULT = "Timeout"
TIMEOUT = 600.0  # TASK_TIMEOUT
KEPT = TIMEOUT + KEPT_BEYOND  # seconds that claims are remembered


class Box:
    """The claims of node "me". What it publishes is stored and read back when the test lets it."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.now = 100.0
        self.sent: dict[int, ClaimMessage] = {}
        self.reading: list[float] = []  # what was asked for
        self.remembered: list[float] = []  # for how long it is remembered
        self.claims = Claims("me", self, TIMEOUT)
        if is_open:
            self.claims.opened(ClaimsOpened())

    def publish_claims(self, number: int, message: bytes) -> None:
        """See Topic."""
        decoded = decode(message)
        assert decoded is not None
        self.sent[number] = decoded

    def read_claims(self, reach_s: float, remember_s: float) -> None:
        """See Topic."""
        self.reading.append(reach_s)
        self.remembered.append(remember_s)
        if reach_s:
            self.claims.read(self.now, ClaimsRead(b"", is_start=True))

    def turn(self, seconds: float = 0.02) -> list[ClaimMessage]:
        """Let time pass and publish what is due; return it, without the serials."""
        self.now += seconds
        before = len(self.sent)
        self.claims.tick(self.now)
        return [msgspec.structs.replace(message, serial=0) for message in list(self.sent.values())[before:]]

    def store(self, fault: str = "", read_back: bool = True, seconds: float = 0.0) -> None:
        """Store what was sent and is not stored, after some seconds."""
        self.now += seconds
        for number, message in list(self.sent.items()):
            del self.sent[number]
            self.claims.stored(self.now, ClaimsStored(number, fault))
            if read_back and not fault:
                self.read(message)

    def read(self, *messages: ClaimMessage) -> None:
        """Messages of the topic come."""
        for message in messages:
            self.claims.read(self.now, ClaimsRead(encode(message)))

    def run(self, seconds: float) -> None:
        """Let time pass; everything is stored and read back."""
        until = self.now + seconds
        while self.now < until:
            self.turn(0.5)
            self.store()

    def take(self) -> None:
        """Claim message 1 with request "r"; it is stored at once."""
        self.claims.take(came(self.now), 1, "r")
        self.turn()
        self.store()

    def look_up_in_vain(self) -> None:
        """Look message 1 up with request "r"; what this node publishes is not read back in time."""
        self.claims.look_up(self.now, 1, "r", message(), self.now + 600.0)
        self.turn()
        self.store(read_back=False)
        self.turn(20.0)
        assert [found.finding for found in self.claims.found(self.now)] == [Finding.NOT_KNOWN]

    def ask(self, is_end: bool = False) -> list[Granted]:
        """Ask for a grant, let everything be stored, and return the grants."""
        self.claims.ask(1, "r", is_end)
        self.turn()
        self.store()
        self.turn()
        self.store()
        return self.claims.grants()


GRANTED, DENIED = [Granted(1, True)], [Granted(1, False)]
END_GRANTED = [Granted(1, True, is_end=True)]


def came(now: float) -> Received:
    """Return a message that was published and received now (monotonic)."""
    return Received(None, (1, 1, 0, -1), b"", 0.0, 0.0, now, 0)


def message(published: float = 0.0) -> Received:
    """Return a message of an unknown publisher."""
    return Received(None, (1, 1, 0, -1), b"", published, published, 100.0, 0, publisher="p", stamped=published)
