"""How a fake gateway misbehaves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

ANY = ""  # stands for all ids that have no behaviour of their own


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the gateway treats the answers for one id, or for all. Without any: well."""

    times: int = 0  # only the first so many POSTs or upgrades suffer; 0: all
    # POST, before it is taken: it counts as refused.
    status: int = 0
    redirect_to: str = ""
    delay_ms: float = 0
    hang: bool = False  # nothing is answered, the connection stays open
    reset: bool = False
    # POST, after it was taken: the client has its answer, the node does not know.
    take_then_hang: bool = False
    take_then_reset: bool = False
    # The upgrade to WebSocket. The id is not known yet, so these count only where they are set for all.
    upgrade_status: int = 0
    upgrade_redirect_to: str = ""
    upgrade_hang: bool = False
    # WebSocket, once the id is known from its frame. `None`: never.
    cut_after: int | None = None  # RST after so many frames of this id were taken; 0: at the first, which is lost
    close_after: int | None = None  # the same with a proper close frame
    stop_reading_after: int | None = None  # the reader blocks: no more frames, no pongs, no close
    slow_read_ms: float = 0  # after each KiB read so long a pause; starts with the first frame of the id
    no_pong: bool = False  # reads on, but answers no ping
    close_after_end: bool = False  # close the connection once the id has its end


FIELDS = frozenset(one.name for one in dataclasses.fields(Behaviour))
GOOD = Behaviour()
