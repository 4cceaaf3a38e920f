"""What other threads report to the main thread, which owns the supervisor's state. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from workernode.protocol import FaultInfo, Outcome
from workernode.settings import Settings

MessageKey: TypeAlias = tuple[
    int, int, int, int
]  # ledger, entry, partition, batch index: the broker's name for a message

Entry: TypeAlias = tuple[int, int, int]  # ledger, entry, partition: what the messages of a batch have in common


# Seconds for which a node has asked for a message and got none: the next one has not waited at the broker.
ASKED_FOR = 0.1


@dataclass(frozen=True, slots=True)
class Received:
    """A message was taken from the broker."""

    message: Any  # the library's own object: an ack by a rebuilt id can be lost in batches
    key: MessageKey
    payload: bytes
    published: float  # seconds since the epoch, by the publisher's clock
    received: float  # seconds since the epoch
    received_at: float  # monotonic
    redeliveries: int  # as the broker counts
    is_chunked: bool = False  # it came in chunks: the client library cannot nak it
    publisher: str = ""  # the name of the producer that has published it
    asked_for: float = 0.0  # seconds that the node had asked for a message and got none before this one
    # Since its consumer connected, the node has once asked for a message and got none for ASKED_FOR seconds: what the
    # broker had to hand out as it connected is not left there.
    has_waited: bool = False
    stamped: float = 0.0  # seconds since the epoch: `published` as the publisher has stamped it, never corrected
    is_corrected: bool = False  # `published` is by this node's clock already (deliveries.PublisherClocks)
    age_by_stamp: float | None = None  # seconds at its receipt, if the publisher's clock is right; None: not corrected

    def age(self, now: float) -> float:
        """Return the seconds since it was published; `now` is monotonic."""
        return self.received - self.published + now - self.received_at

    @property
    def earliest(self) -> float:
        """The monotonic time before which nobody can have had it: that of its publication, by the publisher's clock as
        it is or with its difference taken off. The difference may be misjudged, so that the earlier of the two counts.
        """
        age = self.received - self.published
        return self.received_at - (age if self.age_by_stamp is None else max(age, self.age_by_stamp))


@dataclass(frozen=True, slots=True)
class RetryHere:
    """A message that was to be sent back stays, and is to be tried again here."""

    received: Received


@dataclass(frozen=True, slots=True)
class Stored:
    """A record or dead letter is safely with the broker, or not."""

    number: int  # whose: the job's
    fault: str  # "" when stored; else why not, in the library's word
    dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class ClaimsOpened:
    """The topic of claims is open (supervisor/claims), or could not be opened."""

    fault: str = ""  # why not, in the library's word; "" if it is open
    is_refused: bool = False  # a right or the topic is missing; otherwise it is tried again


@dataclass(frozen=True, slots=True)
class ClaimsStored:
    """A message with claims is safely with the broker, or not."""

    number: int  # which
    fault: str  # "" when stored; else why not, in the library's word


@dataclass(frozen=True, slots=True)
class ClaimsRead:
    """The next message of the topic of claims."""

    data: bytes
    is_start: bool = False  # no message: the reader begins, and all messages come again


@dataclass(frozen=True, slots=True)
class BrokerUp:
    """Messages can be taken, records stored."""


@dataclass(frozen=True, slots=True)
class BrokerDown:
    """An attempt to connect failed, or the connection is of no use any more."""

    why: str


@dataclass(frozen=True, slots=True)
class SelfChecked:
    """The result of a self-check, a chat request of the node's own: what it shows of key, quota, model and address."""

    asked_at: float  # monotonic: when it was sent
    # None: upstream answered it. One of NODE_KINDS: upstream refused it. Else it shows less, or nothing.
    fault: FaultInfo | None = None
    is_first_refusal: bool = False  # upstream refused it once; the result of the second request will follow


@dataclass(frozen=True, slots=True)
class SettingsReloaded:
    """The settings were read again."""

    settings: Settings  # as they hold from now on
    changed: tuple[str, ...]  # variables whose new values are in `settings`
    need_restart: tuple[str, ...]  # variables whose new values are not


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """The settings were read again and cannot be used. The old ones hold."""

    faults: tuple[str, ...]  # a sentence each


@dataclass(frozen=True, slots=True)
class StreamsEnded:
    """The streams that the killed workers of a stopping node had begun are ended, as far as that was possible."""

    outcomes: Sequence[Outcome]  # those that could not be ended in time are missing


@dataclass(frozen=True, slots=True)
class Wake:
    """Another thread has news for `LocalModel.tick`: the loop takes a turn."""


Event: TypeAlias = (
    Received | RetryHere | Stored | ClaimsOpened | ClaimsStored | ClaimsRead | BrokerUp | BrokerDown | SelfChecked
    | SettingsReloaded | ReloadFailed | StreamsEnded | Wake
)
