"""JSON as the gateway needs it: read strictly, and handed on as it was written. Pure.

The platform's gateway is a Go program that keeps `data` as raw text; reading and writing it again would turn 1.0e-5
into 1e-05 and hide a node that changes what it relays.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, NoReturn

SPACE = " \t\r\n"
# A string, to be kept whole, or white space outside of strings, to be dropped.
STRING_OR_SPACE = re.compile(rf'("(?:[^"\\]|\\.)*")|[{SPACE}]+')


class Member(NamedTuple):
    """One member of a JSON object: what it means, and how it was written."""

    value: object
    raw: str


def refuse(constant: str) -> NoReturn:
    """Python would read NaN and Infinity; JSON has neither."""
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(parse_constant=refuse)


def members(document: bytes) -> dict[str, Member]:
    """The members of the one JSON object that `document` is; of a repeated name the last.

    Raises:
        ValueError: it is not UTF-8, not JSON (NaN and trailing text are not), or not an object.
    """
    try:
        return read_object(document.decode())
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except IndexError as error:
        raise ValueError("cut short") from error


def compact(raw: str) -> str:
    """Valid JSON without white space between its tokens, and otherwise as it was written."""
    return STRING_OR_SPACE.sub(r"\1", raw)


def read_object(text: str) -> dict[str, Member]:
    """As `members`, except that IndexError means: the text is cut short."""
    found: dict[str, Member] = {}
    at = behind("{", text, 0)
    while text[at] != "}":
        name, at = DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise ValueError("a name in an object is not a string")
        start = behind(":", text, at)
        value, end = DECODER.raw_decode(text, start)
        found[name] = Member(value, text[start:end])
        at = token(text, end)
        if text[at] != "}":
            at = behind(",", text, at)
            if text[at] == "}":
                raise ValueError("a comma before the end of the object")
    if token(text, at + 1) != len(text):
        raise ValueError("text behind the object")
    return found


def token(text: str, at: int) -> int:
    """Where the next token starts."""
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def behind(sign: str, text: str, at: int) -> int:
    """Where the token behind `sign` starts; ValueError if something else stands there."""
    at = token(text, at)
    if text[at] != sign:
        raise ValueError(f"no {sign!r} at character {at}")
    return token(text, at + 1)
