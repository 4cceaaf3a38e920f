"""Reads parsed JSON of unknown shape: what is missing or has another type becomes None or empty. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def member(value: object, name: str) -> object:
    """Return the member of a JSON object; None if the value is no object or has no such member."""
    return value.get(name) if isinstance(value, Mapping) else None


def as_list(value: object) -> list[object]:
    """Return the value if it is a JSON array, else an empty list."""
    return value if isinstance(value, list) else []


def as_count(value: object) -> int | None:
    """Return the value if it is a positive integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def strings(values: Iterable[object]) -> tuple[str, ...]:
    """Return the non-empty strings."""
    return tuple(value for value in values if isinstance(value, str) and value)
