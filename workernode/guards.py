"""The operator's guards: what REQUEST_SET, REQUEST_STRIP and MAX_TOKENS change in a client's chat request. Pure.

It imports the standard library only: the settings need it, and `--version` works where no package is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Path: TypeAlias = tuple[str, ...]  # a dotted name: ("metadata", "team")

PROTECTED = ("model", "stream", "stream_options", "messages")  # the node's own, and the client's words
# The members that limit the tokens of an answer. llama.cpp reads n_predict, too, and prefers it.
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")


@dataclass(frozen=True, slots=True)
class Guards:
    """What the operator wants changed in every chat request."""

    set: tuple[tuple[Path, Any], ...] = ()  # these members get these values
    strip: tuple[Path, ...] = ()  # these members are taken out, before others are set
    max_tokens: int = 0  # no answer may be longer; 0: no limit
    limit_name: str = "max_tokens"  # the member that gets the limit where the client names none

    def apply(self, data: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return a chat request as it is to be sent, and the dotted names of what was changed in it.

        Args:
            data: the client's chat request; it stays as it is.
        """
        changed: dict[str, None] = {}
        for path in self.strip:
            if _value(data, path) is not _MISSING:
                data = _without(data, path)
                changed[".".join(path)] = None
        for path, value in self.set:
            if not _is_same(_value(data, path), value):
                data = _with(data, path, value)
                changed[".".join(path)] = None
        if self.max_tokens:
            for name in self._limits_to_set(data):
                data = {**data, name: self.max_tokens}
                changed[name] = None
        return data, tuple(changed)

    def _limits_to_set(self, data: Mapping[str, Any]) -> list[str]:
        named = [name for name in TOKEN_LIMITS if data.get(name) is not None]
        if not named:
            return [self.limit_name]
        return [name for name in named if not _is_within(data[name], self.max_tokens)]


_MISSING = object()


def _value(data: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(data, dict) or name not in data:
            return _MISSING
        data = data[name]
    return data


def _without(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A copy without the member, which is there."""
    first, *rest = path
    if rest:
        return {**data, first: _without(data[first], tuple(rest))}
    return {name: value for name, value in data.items() if name != first}


def _with(data: Any, path: Path, value: Any) -> dict[str, Any]:
    """A copy with the member; what stands in its way and is no object is replaced by one."""
    first, *rest = path
    inside = data if isinstance(data, dict) else {}
    return {**inside, first: _with(inside.get(first), tuple(rest), value) if rest else value}


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, and 1 is not 1.0."""
    if one is _MISSING:
        return False
    try:
        return json.dumps(one) == json.dumps(other)
    except (ValueError, RecursionError):  # the client's value has no JSON form
        return False


def _is_within(value: Any, limit: int) -> bool:
    """A number of tokens up to the limit. Negative ones mean "no limit" to llama.cpp."""
    return type(value) in (int, float) and 0 <= value <= limit
