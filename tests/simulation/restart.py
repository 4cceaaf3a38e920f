"""One script for a broker that is killed with messages at a consumer, some of which were acked; run on both sides."""

from __future__ import annotations

from tests.simulation.sides import Came, Side, SimSide

PUBLISHED = ("a", "b", "c", "d", "e")
# What may come afterwards: all that was not acked, in its order and without its counts; and what was acked from some
# moment on, because a broker stores acks now and then.
MAY_COME = [[(payload, 0) for payload in PUBLISHED[first:]] for first in (0, 1, 2)]


def before(side: Side) -> None:
    """A consumer acks two messages, is given one twice, and has another."""
    for payload in PUBLISHED:
        side.publish(payload)
    side.subscribe("A")
    side.expect("A", [("a", 0)])
    for payload in ("a", "b"):
        side.consumer("A").acknowledge(side.message("A", payload))
        side.quiet()  # acks are collected for a while
        came = side.came("A")
        side.consumer("A").resume_message_listener()
        side.expect("A", [*came, ("b" if payload == "a" else "c", 0)])
    side.consumer("A").negative_acknowledge(side.message("A", "c"))
    side.quiet()  # so are naks
    side.consumer("A").resume_message_listener()
    side.expect("A", [("a", 0), ("b", 0), ("c", 0), ("c", 1)])


def after(side: Side) -> Came:
    """Return what another consumer is given when the broker is back."""
    side.subscribe("B")
    return side.take("B", PUBLISHED[-1])


def simulated(seed: int) -> Came:
    """Run it in one simulated world."""
    side = SimSide(seed)
    before(side)
    side.server.stop(hard=True)
    side.server.start()
    return after(side)
