"""The encoding of protocol buffers, as far as it is needed here: protobuf.dev/programming-guides/encoding. Pure."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def varint(number: int) -> bytes:
    """Encode a number that is not negative."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def number(name: int, value: int) -> bytes:
    """Encode a field that holds a number."""
    return varint(name << 3 | VARINT) + varint(value)


def nested(name: int, value: bytes) -> bytes:
    """Encode a field that holds bytes or another message."""
    return varint(name << 3 | BYTES) + varint(len(value)) + value


def text(name: int, value: str) -> bytes:
    """Encode a field that holds text."""
    return nested(name, value.encode())


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message. Fields of a fixed width, which are not needed, are left out.

    Raises:
        ValueError: the bytes are no such message.
    """
    place = 0
    while place < len(data):
        key, place = read_varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = read_varint(data, place)
            yield key >> 3, value
        elif kind == BYTES:
            size, place = read_varint(data, place)
            if place + size > len(data):
                raise ValueError("the message is cut off")
            yield key >> 3, data[place : place + size]
            place += size
        elif kind in (FIXED64, FIXED32):
            place += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"there is no wire type {kind}")


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at this place, and the place after it.

    Raises:
        ValueError: there is none.
    """
    value = 0
    for shift in range(0, 64, 7):
        if place >= len(data):
            raise ValueError("the message is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("the number has no end")
