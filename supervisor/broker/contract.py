"""What the node and its dispatcher may ask of a broker, and what the broker asks of them. Pure: no Pulsar in sight.

`PulsarBroker` fulfils it. Tests run that on a fake of the client library (tests/support/fake_pulsar.py).
"""

from __future__ import annotations

from typing import Protocol

from supervisor.events import MessageKey, Received


class Batches(Protocol):
    """What is known of messages and of the batches that they came in. The ledger fulfils it."""

    def is_known(self, key: MessageKey) -> bool:
        """Return True if the message is at this node, or was answered here."""

    def has_others_of_batch(self, key: MessageKey) -> bool:
        """Return True if a message of the same batch is at this node."""

    def has_answered_of_batch(self, key: MessageKey) -> bool:
        """Return True if a message of the same batch was answered at this node."""


class Broker(Protocol):
    """A connection to the broker. All of it is called by the thread that owns the supervisor's state, and never waits,
    except `close`.

    The broker answers with events (supervisor.events): BrokerUp and BrokerDown about the connection, Received for each
    message that is taken, Stored for each record and dead letter, RetryHere for a nak that cannot be sent, and
    ClaimsOpened, ClaimsStored and ClaimsRead about claims.
    """

    def start(self) -> None:
        """Begin to connect. BrokerUp is posted when messages can be taken and records stored."""

    def use_token(self, token: str) -> None:
        """Authenticate with this token from now on: at the next connection, or when the broker asks again."""

    # --- taking messages ---

    def allow(self, count: int) -> None:
        """Set how many messages may be taken from now on, beyond those that `seen` has been called for.

        The number replaces the one of the call before; 0 means that all slots are taken. A message that is on its way
        when the number falls is kept until there is room for it.
        """

    def close_intake(self, *, is_empty: bool) -> None:
        """Close the intake until `allow` is called again.

        Called at every turn of the owner's loop while it lasts. What the client library has taken beforehand goes back
        to the broker within 2 s, so that other nodes get it (spec 3).

        Args:
            is_empty: no message is at this node. The consumer may then be closed, which a message at the node does not
                survive: the broker redelivers at once what a closed consumer has not acked.
        """

    def seen(self, received: Received) -> None:
        """Confirm that the owner has taken a Received out of its queue. Must be called once for each of them."""

    def step_aside(self, seconds: float) -> None:
        """Close the consumer for so long, so that what is nak'd now goes to other nodes.

        No message may be at this node. A message that was taken meanwhile makes the call void, and so does a nak that
        is held for a message of a batch: it may be tried again here (see `send_due_naks`).
        """

    # --- deciding what becomes of messages ---

    def ack(self, received: Received) -> None:
        """Tell the broker that it may forget the message. Lost without a connection: the message then comes again."""

    def nak(self, received: Received, delay_s: float) -> None:
        """Have the broker hand the message out again, to any node.

        Args:
            received: the message.
            delay_s: seconds from now; the nak is held here until then (see `send_due_naks`).
        """

    def send_due_naks(self, now: float, batches: Batches, everything: bool = False) -> None:
        """Send the naks that are due.

        A batch is redelivered as a whole. So a nak of one of its messages waits while others of it are at this node;
        and once one of them was answered here, RetryHere is posted instead.

        Args:
            now: monotonic.
            batches: what is known of batches.
            everything: the node stops, and nothing is being worked on: send all naks.
        """

    def next_due_nak(self) -> float:
        """Return the monotonic time at which `send_due_naks` has something to do; infinity if there is nothing."""

    def do_others_serve(self) -> bool:
        """Return whether other nodes have kept messages that this one sent back lately, and have sent none back."""

    @property
    def held_naks(self) -> int:
        """How many naks are held until they are due."""

    # --- storing ---

    def publish_record(self, number: int, record: bytes) -> None:
        """Send a billing record. Stored(number, fault) is posted when the broker has it, or could not take it.

        Args:
            number: of the delivery.
            record: JSON, by docs/record.schema.json.
        """

    def dead_letter(self, number: int, payload: bytes, properties: dict[str, str]) -> None:
        """Send a message to the dead-letter topic. Stored(number, fault, dead_letter=True) is posted.

        Args:
            number: of the delivery.
            payload: the message as it came.
            properties: by name: why it is there, and where it came from.
        """

    # --- claims (supervisor/claims) ---

    def publish_claims(self, number: int, message: bytes) -> None:
        """Send a message to the topic of claims. ClaimsStored(number, fault) is posted when the broker has it, or could
        not take it. ClaimsOpened is posted at each connection, before messages are taken.

        Args:
            number: chosen by the caller, to know the message again.
            message: what supervisor/claims has encoded.
        """

    def read_claims(self, reach_s: float, remember_s: float) -> None:
        """Begin or end to read the topic of claims. ClaimsRead is posted for each message.

        Args:
            reach_s: read what was published in the last so many seconds, and all that follows; 0: end to read.
            remember_s: seconds for which the owner remembers what it has read: a reader that is made anew after that
                time need not begin with what the one before began with.
        """

    # --- the connection ---

    def connected(self) -> bool:
        """Return True while messages can be taken and records stored."""

    def close(self) -> None:
        """Send what is pending and disconnect, within a few seconds. The broker redelivers what was not acked."""
