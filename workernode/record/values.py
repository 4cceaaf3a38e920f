"""Which texts and numbers of others may stand in a record. Pure."""

from __future__ import annotations

import re

MAX_TEXT = 256  # bytes of UTF-8. If all texts are as long as they can be, a record is still below MAX_BYTES
MAX_NUMBER = 10**15  # larger figures are mistakes or attacks, and JSON readers disagree on integers beyond 2**53


def clean_text(value: object, most: int = MAX_TEXT) -> str | None:
    """The text, cut, with a blank for each character that is not printable (control characters, lone surrogates)."""
    if not isinstance(value, str) or not value:
        return None
    value = value[:most]
    if not value.isprintable():
        value = "".join(sign if sign.isprintable() else " " for sign in value)
    return value if value.isascii() else value.encode("utf-8")[:most].decode("utf-8", "ignore")


def as_name(value: object) -> str | None:
    """A name such as `json_schema` or `low`; None for anything longer, which may be text of the client's."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", value) else None


def is_number(value: object) -> bool:
    return type(value) in (int, float) and -MAX_NUMBER <= value <= MAX_NUMBER  # type: ignore[operator]
