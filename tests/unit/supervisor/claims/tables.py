"""Tables of claims after some messages of the topic, and the messages that most tests of the table begin with."""

from __future__ import annotations

from supervisor.claims.table import ClaimMessage, ClaimState, ClaimTable


def table_of(*messages: ClaimMessage) -> ClaimTable:
    """Return the table of a reader that has read these messages, one each second."""
    table = ClaimTable()
    for second, message in enumerate(messages):
        table.apply(message, float(second))
    return table


def holder(table: ClaimTable, request_id: str = "r") -> str | None:
    """Return the node that holds a task."""
    claim = table.get(request_id)
    return None if claim is None else claim.holder


def state(table: ClaimTable, request_id: str = "r") -> ClaimState | None:
    """Return how far the holder of a task has come."""
    claim = table.get(request_id)
    return None if claim is None else claim.state


TAKEN = ClaimMessage("a", taken=["r"])
BEGUN = ClaimMessage("a", begun=["r"])
ENDED = ClaimMessage("a", ended=["r"])
RELEASED = ClaimMessage("a", released=["r"])
WITHDRAWN = ClaimMessage("a", withdrawn=["r"])
RECORDED = ClaimMessage("a", recorded=["r"])
UNENDED = ClaimMessage("a", unended=["r"])
SUSPICION = ClaimMessage("b", suspects=["a"])
TAKE_OVER = ClaimMessage("b", takes=[("r", "a")])
SUSPICION_OF_C = ClaimMessage("a", suspects=["c"])
TAKEN_OVER = ClaimMessage("a", takes=[("r", "c")])
