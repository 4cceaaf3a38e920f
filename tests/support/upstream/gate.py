"""A gate at which answers wait until the test lets them pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.wire import Connection, settle


class Gate:
    """Lets through as many as it was given permits for, or everybody once it is open. Lives in the loop's thread."""

    def __init__(self) -> None:
        self.permits = 0
        self.is_open = False
        self.waiting: list[asyncio.Future[None]] = []

    def release(self, permits: int) -> None:
        self.permits += permits
        self._let_go()

    def open(self) -> None:
        self.is_open = True
        self._let_go()

    async def passed(self, connection: Connection, notify: Callable[[], None]) -> None:
        waiter = connection.server.loop.create_future()
        self.waiting.append(waiter)
        self._let_go()
        notify()
        try:
            await connection.wait_for(waiter)
        finally:
            if waiter in self.waiting:
                self.waiting.remove(waiter)

    def _let_go(self) -> None:
        while self.waiting and (self.is_open or self.permits > 0):
            waiter = self.waiting.pop(0)
            if not waiter.done():
                self.permits -= not self.is_open
                settle(waiter)
