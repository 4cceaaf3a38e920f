"""JSON as the standard has it (RFC 8259): NaN and Infinity are refused when reading and when writing. Pure."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Making a decoder costs more than reading a small chunk with it, so there is one.
DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that the bytes hold.

    Raises:
        ValueError: the bytes are not UTF-8, not JSON, nested too deep, or not an object. The text says which.
    """
    try:
        value = DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as exc:
        raise ValueError(f"it is not JSON ({exc})") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def dumps(value: object) -> bytes:
    """Return the value as JSON on one line, in ASCII.

    Raises:
        ValueError: it holds NaN or an infinite number.
        RecursionError: it is nested too deep.
    """
    return _ENCODER.encode(value).encode("ascii")
