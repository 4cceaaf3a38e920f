"""The server's end of one WebSocket on a connection that http.server accepted: websockets' protocol, our socket."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from io import BufferedIOBase

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

READ_BYTES = 65536


def upgrade(connection: socket.socket, path: str, headers: Iterable[tuple[str, str]]) -> ServerProtocol | None:
    """Answer the handshake, and return its protocol. None: it was refused, and the client got the reason."""
    protocol = ServerProtocol(max_size=None)  # the platform's gateway sets no limit either
    # The protocol must have parsed the request before it parses frames.
    protocol.receive_data(Request(path, Headers(headers)).serialize())
    for request in protocol.events_received():
        if isinstance(request, Request):
            protocol.send_response(protocol.accept(request))
    flush(connection, protocol)
    return protocol if protocol.handshake_exc is None else None


def messages(
    connection: socket.socket, received: BufferedIOBase, protocol: ServerProtocol
) -> Iterator[tuple[Opcode, bytes]]:
    """Yield the whole messages as (TEXT or BINARY, payload) until the connection ends.

    A ping is answered only after every message before it was consumed. While the consumer blocks, the node gets no pong
    and no answer to its close, as with the platform's gateway.
    """
    kind, payload = Opcode.TEXT, b""
    data = b"the handshake"
    while data and not protocol.close_expected():
        data = received.read1(READ_BYTES)
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        for frame in protocol.events_received():
            # After the handshake only frames come; control frames are the protocol's own business.
            if not isinstance(frame, Frame) or frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            if frame.opcode is Opcode.CONT:
                payload += frame.data
            else:
                kind, payload = frame.opcode, bytes(frame.data)
            if frame.fin:
                yield kind, payload
        flush(connection, protocol)


def flush(connection: socket.socket, protocol: ServerProtocol) -> None:
    """Send the protocol's output. http.server closes the connection."""
    for data in protocol.data_to_send():
        if data:
            connection.sendall(data)
