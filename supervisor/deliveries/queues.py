"""Deliveries that wait for a worker: for a free slot, or for a worker that has no other job."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from supervisor.deliveries.settlement import Settlement
from supervisor.ledger import Delivery
from supervisor.workers import Pool

# Seconds in which a worker is emptied for a delivery that is to run alone. A job may last for minutes, and a worker
# that is being emptied gets no other.
EMPTIED_WITHIN = 5.0


class Queues:
    """The two queues. What they yield has left them.

    Args:
        pool: has free slots, and empties a worker for a delivery that is to run alone.
        settlement: knows which deliveries must wait before they ask upstream.
    """

    def __init__(self, pool: Pool, settlement: Settlement) -> None:
        self._pool, self._settlement = pool, settlement
        self._shared: deque[Delivery] = deque()
        self._alone: deque[Delivery] = deque()
        self._emptying_since: float | None = None  # monotonic: since when a worker is being emptied

    def __len__(self) -> int:
        return len(self._shared) + len(self._alone)

    def put(self, delivery: Delivery, is_alone: bool) -> None:
        """Add a delivery.

        Args:
            is_alone: it is to get a worker of its own, if one can be emptied soon enough.
        """
        (self._alone if is_alone else self._shared).append(delivery)

    def to_run_alone(self, now: float) -> Iterator[Delivery]:
        """Yield the next delivery for which a worker was emptied; submit it before asking for more.

        One for which none could be emptied in time goes to the other queue: it shares a worker then, whose death does
        not show that it is the cause.
        """
        while self._alone and not self._settlement.must_wait(self._alone[0], now):
            if self._pool.reserve():
                self._emptying_since = None
                yield self._alone.popleft()
                continue
            if self._emptying_since is None or not self._pool.ready():  # no worker is up that could be emptied
                self._emptying_since = now
            if now - self._emptying_since < EMPTIED_WITHIN:
                return
            self._emptying_since = None
            self._shared.appendleft(self._alone.popleft())
        self._emptying_since = None
        self._pool.release()

    def for_free_slots(self, now: float) -> Iterator[Delivery]:
        """Yield the next delivery while a slot is free and it may ask upstream; submit it before asking for more."""
        paced: list[Delivery] = []  # of a batch, which comes as a whole, more tasks can be here than may ask
        while self._shared and self._pool.free_slots():
            delivery = self._shared.popleft()
            if self._settlement.must_wait(delivery, now, others_wait=bool(paced)):
                paced.append(delivery)
            else:
                yield delivery
        self._shared.extendleft(reversed(paced))

    def take_back(self) -> list[Delivery]:
        """Remove those that the broker may hand out again, and return them."""
        back = [each for each in (*self._alone, *self._shared) if each.may_go_back]
        for queue in (self._alone, self._shared):
            for delivery in [each for each in queue if each.may_go_back]:
                queue.remove(delivery)
        return back

    def clear(self) -> None:
        """Forget all of them: the node stops."""
        self._shared.clear()
        self._alone.clear()
