"""What waits for a gateway that cannot be reached, and when it is offered again. Pure: the clock is passed in.

A task that waits here holds no slot. Of all that waits for one gateway only one is offered at a time; when the gateway
takes it, the others follow. While a gateway is away its other tasks are not run: upstream would be paid for answers
that nobody can get.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from dataclasses import dataclass, field

from supervisor.ledger import Delivery
from workernode.protocol import Kept
from workernode.task import envelope_server

log = logging.getLogger(__name__)

PAUSE_FIRST, PAUSE_LONGEST = 0.25, 5.0  # seconds between two offers to one gateway; doubled from one to the next
# What waits here is beyond the cap, up to these bounds; what is more counts against the cap.
MOST_BEYOND_CAP = 10_000  # messages
MOST_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _Waiting:
    delivery: Delivery
    until: float  # monotonic: then it is offered no more
    size: int  # bytes
    is_beyond_cap: bool


@dataclass(slots=True)
class _Gateway:
    pause: float  # seconds
    again_at: float  # monotonic
    waiting: dict[int, _Waiting] = field(default_factory=dict)  # by the delivery's number, the next offer first
    offered: int | None = None  # number of the delivery that is at a worker, or on its way there


class GatewayWaits:
    """The deliveries that wait, by gateway. For one thread."""

    def __init__(self) -> None:
        # By the gateway's server. An answer that a gateway in reach does not take waits alone, under its own number.
        self._gateways: dict[str | int, _Gateway] = {}
        self._places: dict[int, str | int] = {}  # where a delivery waits, or is offered from
        self._back: list[Delivery] = []  # their gateway is back: to be offered, or run, as soon as possible
        # When the gateways that wait are offered something again, and a number that decides between equals. An entry
        # may be out of date.
        self._agenda: list[tuple[float, int, str | int]] = []
        self._order = itertools.count()
        self._offered = 0  # gateways of which a delivery is at a worker, or on its way there
        self._next_over = float("inf")  # monotonic: no delivery's time is over before it
        self._is_full = False
        self._bytes = 0
        self.beyond_cap = 0  # messages that wait here and do not count against the cap

    def __len__(self) -> int:
        return sum(len(gateway.waiting) for gateway in self._gateways.values())

    def server_away(self, payload: bytes) -> str:
        """Return the gateway's server of a message, if it could not be reached when it was tried last; else ""."""
        if not self._gateways:  # nearly always: no message is read in vain
            return ""
        server = envelope_server(payload)
        return server if server in self._gateways else ""

    def wait(self, now: float, delivery: Delivery, kept: Kept) -> None:
        """Have a delivery wait. The dispatcher has it no more until `due`, `over` or `take_unasked` returns it.

        Args:
            kept: what was offered in vain; without parts if the task is not to be run yet.
        """
        number = delivery.number
        place: str | int = number if kept.is_reached else kept.gateway
        before = self._places.get(number)
        if before is not None and before != place:
            self.reached(delivery)
        gateway = self._gateways.get(place)
        if gateway is None:
            gateway = self._gateways[place] = _Gateway(PAUSE_FIRST, now + PAUSE_FIRST)
            self._schedule(place, gateway)
            if not kept.is_reached:
                about = {"event": "gateway_away", "gateway": kept.gateway}
                log.warning("%s cannot be reached: its answers are kept and offered again", kept.gateway, extra=about)
        elif gateway.offered == number:
            gateway.pause = min(gateway.pause * 2, PAUSE_LONGEST)
            gateway.again_at = now + gateway.pause
            self._no_more_offered(place, gateway)
        size = len(delivery.received.payload) + sum(map(len, kept.parts))
        is_beyond = self.beyond_cap < MOST_BEYOND_CAP and self._bytes + size <= MOST_BYTES
        gateway.waiting[number] = _Waiting(delivery, kept.until, size, is_beyond)
        self._places[number] = place
        self._next_over = min(self._next_over, kept.until)
        self._count(gateway.waiting[number], 1)

    def due(self, now: float, most: int) -> list[Delivery]:
        """Return the deliveries that are to be offered, or run, now. `reached`, `wait` or `forget` follows for each.

        Args:
            now: monotonic.
            most: how many may be offered at a time to gateways that are away: others have the rest of the slots.
        """
        due, self._back = self._back, []
        while self._offered < most and (gateway := self._next_gateway()) is not None and now >= gateway.again_at:
            heapq.heappop(self._agenda)
            waiting = gateway.waiting.values()
            one = next((each for each in waiting if each.delivery.undelivered is not None), None)
            one = one or next(iter(waiting))
            self._take(gateway, one)
            gateway.offered = one.delivery.number
            self._offered += 1
            due.append(one.delivery)
        self._is_full = self._offered >= most  # the next offer is due when one of these has ended
        return due

    def over(self, now: float) -> list[Delivery]:
        """Return the deliveries whose time is over, and forget them."""
        if now < self._next_over:
            return []
        over = [
            (gateway, one)
            for gateway in self._gateways.values()
            for one in gateway.waiting.values()
            if now >= one.until
        ]
        for gateway, one in over:
            self._take(gateway, one)
            self.forget(one.delivery)
        left = [one.until for gateway in self._gateways.values() for one in gateway.waiting.values()]
        self._next_over = min(left, default=float("inf"))
        return [one.delivery for _, one in over]

    def take_unasked(self) -> list[Delivery]:
        """Return the deliveries that wait to be run, and forget them: the node stops, and other nodes may run them."""
        unasked = [
            (gateway, one)
            for gateway in self._gateways.values()
            for one in gateway.waiting.values()
            if one.delivery.may_go_back
        ]
        for gateway, one in unasked:
            self._take(gateway, one)
            self.forget(one.delivery)
        return [one.delivery for _, one in unasked]

    def reached(self, delivery: Delivery) -> None:
        """The gateway of a delivery that was offered can be reached: `due` returns all that waits for it."""
        place = self._places.pop(delivery.number, None)
        gateway = self._gateways.pop(place, None) if place is not None else None
        if gateway is None:
            return
        self._offered -= gateway.offered is not None
        if isinstance(place, str):
            log.info("%s can be reached again", place, extra={"event": "gateway_back", "gateway": place})
        for one in list(gateway.waiting.values()):
            self._take(gateway, one)
            self._places.pop(one.delivery.number, None)
            self._back.append(one.delivery)

    def is_offered(self, delivery: Delivery) -> bool:
        """True if `due` has returned the delivery as the one that finds out whether its gateway is back."""
        return delivery.number in self._places

    def forget(self, delivery: Delivery) -> None:
        """The delivery ended in another way, which shows nothing about its gateway."""
        place = self._places.pop(delivery.number, None)
        gateway = self._gateways.get(place) if place is not None else None
        if gateway is None or place is None:
            return
        if gateway.offered == delivery.number:
            self._no_more_offered(place, gateway)
        if not gateway.waiting and gateway.offered is None:
            del self._gateways[place]

    def next_at(self) -> float:
        """Return the monotonic time at which `due` or `over` has something to return; infinity if nothing waits."""
        if self._back:
            return 0.0
        gateway = None if self._is_full else self._next_gateway()
        over = self._next_over if self._gateways else float("inf")
        return over if gateway is None else min(gateway.again_at, over)

    def _next_gateway(self) -> _Gateway | None:
        """Return the gateway that is offered something next; its entry is the first of the agenda."""
        while self._agenda:
            at, _, place = self._agenda[0]
            gateway = self._gateways.get(place)
            if gateway is not None and gateway.waiting and gateway.offered is None and gateway.again_at == at:
                return gateway
            heapq.heappop(self._agenda)
        return None

    def _schedule(self, place: str | int, gateway: _Gateway) -> None:
        heapq.heappush(self._agenda, (gateway.again_at, next(self._order), place))

    def _no_more_offered(self, place: str | int, gateway: _Gateway) -> None:
        gateway.offered = None
        self._offered -= 1
        self._schedule(place, gateway)

    def _take(self, gateway: _Gateway, one: _Waiting) -> None:
        del gateway.waiting[one.delivery.number]
        self._count(one, -1)

    def _count(self, one: _Waiting, sign: int) -> None:
        if one.is_beyond_cap:
            self._bytes += sign * one.size
            self.beyond_cap += sign
