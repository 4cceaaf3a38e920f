"""The rule that no state is kept for what is gone: what a node without a task still holds."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import Any

from supervisor.events import Received
from supervisor.ledger import Delivery
from workernode.protocol import Job, Kept, Outcome

OF_A_TASK = (Delivery, Received, Outcome, Job, Kept)
# Containers that are bounded by themselves: the answered tasks of the ledger, when messages about claims were sent.
MOST_IDS = 200  # entries in any other container of a node that has answered fifty tasks
BOUNDED = {"_answered", "_answered_ids", "_answered_entries", "_first_sent"}


def kept_by(node: object) -> list[str]:
    """Return what an idle node still holds of its tasks, each with the way to it; containers that have grown, too."""
    found: list[str] = []
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("node", node)]
    while todo:
        path, one = todo.pop()
        if id(one) in seen or isinstance(one, (str, bytes, int, float, bool, type(None), type)):
            continue
        seen.add(id(one))
        if isinstance(one, OF_A_TASK):
            found.append(f"{path}: {type(one).__name__}")
        elif isinstance(one, (dict, OrderedDict, defaultdict)):
            if len(one) > MOST_IDS:
                found.append(f"{path}: {len(one)} entries")
            todo += [(f"{path}[{key!r}]", value) for key, value in one.items()]
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            if len(one) > MOST_IDS and not getattr(one, "maxlen", None):
                found.append(f"{path}: {len(one)} entries")
            todo += [(f"{path}[]", value) for value in one]
        elif path == "node" or type(one).__module__.startswith("supervisor."):
            todo += [(f"{path}.{name}", value) for name, value in _attributes(one) if name not in BOUNDED]
    return found


def _attributes(one: object) -> list[tuple[str, Any]]:
    slots = [name for each in type(one).__mro__ for name in getattr(each, "__slots__", ())]
    return [*getattr(one, "__dict__", {}).items(), *((name, getattr(one, name, None)) for name in slots)]
