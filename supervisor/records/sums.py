"""Adds billing records up: records in, figures by group out. Pure. docs/record.schema.json has the record's schema.

A record that was sent twice (equal attempt_id) counts once. Other programs may write to the topic, too: messages that
are not records are counted and skipped.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

UNKNOWN = "-"
AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,30})?")  # of a cost: exact decimals
Record = Mapping[str, Any]


def read(data: bytes) -> Record | None:
    """Return the record in a message; None: the message is not a record."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not str(value.get("schema", "")).startswith("workernode.record/"):
        return None
    return value if isinstance(value.get("attempt_id"), str) else None


def member(record: Record, path: str) -> Any:
    """Return the value at a path such as `outcome.status`; None if there is no value."""
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text(*paths: str) -> Callable[[Record], str]:
    """Return a reader for the first of these members that holds text."""

    def read_text(record: Record) -> str:
        found = (member(record, path) for path in paths)
        return next((value for value in found if isinstance(value, str) and value), UNKNOWN)

    return read_text


# What records can be grouped by.
GROUPS: dict[str, Callable[[Record], str]] = {
    "model": text("model"),
    "upstream_model": text("upstream_model"),
    "ai_model": text("ai_model_name"),
    # The best known identity of the client: the name that it gives its user, else its address, else its program.
    "client": text("client.user", "client.address", "client.user_agent"),
    "user": text("client.user"),
    "address": text("client.address"),
    "key": text("client.key_id"),
    "user_agent": text("client.user_agent"),
    "node": text("node.host", "node.id"),
    "status": text("outcome.status"),
}


def count(record: Record, path: str) -> int:
    """Return the number at the path; 0 if there is none."""
    value = member(record, path)
    return int(value) if type(value) in (int, float) and math.isfinite(value) else 0


def first_token_ms(record: Record) -> float | None:
    """Return the milliseconds from asking upstream to its first chunk; None: no chunk came."""
    value = member(record, "durations_ms.upstream_first_token")
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


@dataclass(slots=True)
class Sum:
    """The figures of one group."""

    requests: int = 0  # that ended, with whatever result
    errors: int = 0  # of these: the client got an error, or nothing
    handed_back: int = 0  # deliveries that went back to the broker; the request is counted where it ends
    counted: int = 0  # whose usage upstream did not send: the node counted the answer's tokens
    estimated: int = 0  # the same, and the tokens of the prompt were estimated (TOKENIZER)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    costs: dict[str, Decimal] = field(default_factory=dict)  # by currency
    first_tokens: array[float] = field(default_factory=lambda: array("d"))  # milliseconds each

    def add(self, record: Record) -> None:
        """Count one record."""
        if member(record, "outcome.decision") == "nak":
            self.handed_back += 1
        else:
            self.requests += 1
            # A client that has left got no error.
            self.errors += member(record, "outcome.status") not in ("answered", "client_gone", "unrecorded")
        self.counted += member(record, "usage_source") == "counted"
        self.estimated += member(record, "usage_source") == "estimated"
        prompt, completion = count(record, "usage.prompt_tokens"), count(record, "usage.completion_tokens")
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.total_tokens += count(record, "usage.total_tokens") or prompt + completion
        amount, currency = member(record, "cost.amount"), member(record, "cost.currency")
        if isinstance(amount, str) and isinstance(currency, str) and AMOUNT.fullmatch(amount):
            self.costs[currency] = self.costs.get(currency, Decimal(0)) + Decimal(amount)
        if (waited := first_token_ms(record)) is not None:
            self.first_tokens.append(waited)

    def figures(self) -> dict[str, int | float | str | None]:
        """Return the figures by name, in the order in which they are shown."""
        waits = sorted(self.first_tokens)
        return {
            "requests": self.requests,
            "errors": self.errors,
            "handed_back": self.handed_back,
            "counted": self.counted,
            "estimated": self.estimated,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "cost": " + ".join(f"{costs.normalize():f} {currency}" for currency, costs in sorted(self.costs.items()))
            or None,
            "first_token_p50_ms": percentile(waits, 50),
            "first_token_p95_ms": percentile(waits, 95),
        }


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the percentile by nearest rank; None without values.

    Args:
        ordered: the values in ascending order.
        percent: 50 for the median.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


class Sums:
    """The sums of all groups, and the total."""

    def __init__(self, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self.total = Sum()
        self.duplicates = 0
        self.unreadable = 0
        self._groups: dict[tuple[str, ...], Sum] = {}
        self._seen: set[bytes] = set()  # 16 bytes an attempt_id, which may be 600 long

    def add(self, data: bytes) -> Record | None:
        """Count one message. Return its record; None if it is no record, or was counted before."""
        record = read(data)
        if record is None:
            self.unreadable += 1
            return None
        seen = hashlib.blake2b(record["attempt_id"].encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if seen in self._seen:
            self.duplicates += 1
            return None
        self._seen.add(seen)
        self.total.add(record)
        self._groups.setdefault(tuple(GROUPS[name](record) for name in self.by), Sum()).add(record)
        return record

    def groups(self) -> Iterable[tuple[tuple[str, ...], Sum]]:
        """Return the names and figures of each group, the one with the most tokens first."""
        return sorted(self._groups.items(), key=lambda group: (-group[1].total_tokens, -group[1].requests, group[0]))
