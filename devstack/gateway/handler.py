"""One connection of the development gateway: a client's chat request, or the node's answer (spec 1.1, 1.2)."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any

from websockets.frames import Opcode

from devstack.gateway.raw_json import Member, compact, members
from devstack.gateway.state import GatewayState
from devstack.gateway.waiting import Channel, SenderLeft
from devstack.gateway.websocket import messages, upgrade

# The platform's path, and OpenAI's own, so that a client library works with base_url http://localhost:8081/v1.
CHAT_PATHS = ("/api/v1/chat/completions", "/v1/chat/completions")
HEALTH_PATHS = ("/health", "/healthz")

log = logging.getLogger("gateway")


class Handler(BaseHTTPRequestHandler):
    """Serves one connection in a thread of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet

    def __init__(self, gateway: GatewayState, *connection: Any) -> None:
        self.gateway = gateway
        super().__init__(*connection)  # serves the connection, and returns at its end

    def do_GET(self) -> None:
        if self.path == "/res/ws":
            self.take_frames()
        elif self.path in HEALTH_PATHS:
            self.reply(200, {"status": "ok"})
        elif self.path == "/__stats":
            self.reply(200, self.gateway.stats())
        else:
            self.reply(404, error_body(f"There is no GET {self.path} here.", "invalid_request_error"))

    def do_POST(self) -> None:
        if "Content-Length" not in self.headers:
            self.close_connection = True
            self.reply(411, error_body("The request needs a Content-Length.", "invalid_request_error"))
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path in CHAT_PATHS:
            self.chat(body)
        elif self.path == "/res":
            self.take_answer(body)
        else:
            self.reply(404, error_body(f"There is no POST {self.path} here.", "invalid_request_error"))

    # The client's side.

    def chat(self, body: bytes) -> None:
        """Publish a client's request as a task, and wait for the answer."""
        try:
            model, stream = read_request(members(body))
        except ValueError as error:
            self.reply(400, error_body(f"The request could not be read: {error}.", "invalid_request_error"))
            return
        waiting = self.gateway.stream if stream else self.gateway.plain
        request_id = str(uuid.uuid4())
        waiting.publishing(request_id)
        try:
            self.gateway.publish(f"model-{model}", self.task(request_id, stream, body.decode()))
        except Exception as error:  # whatever the broker's library raises, the client gets it
            waiting.forget(request_id)
            log.error("task %s for model %s could not be published: %s", request_id, model, error)
            self.reply(500, error_body(f"The task could not be published: {error}", "internal_server_error"))
            return
        # Only now, as the platform does: an answer that was faster found no waiting client (spec 1.2).
        channel = waiting.register(request_id)
        waiting.count("published")
        try:
            if stream:
                self.relay(channel)
            else:
                self.wait(channel)
        finally:
            waiting.forget(request_id)

    def task(self, request_id: str, stream: bool, body: str) -> bytes:
        """Return the message (spec 1.1), with the client's request as it was written."""
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            if name.lower() != "host":  # Go keeps it apart from the headers
                headers.setdefault("-".join(part.capitalize() for part in name.split("-")), []).append(value)
        endpoint = f"ws://{self.gateway.address}/res/ws" if stream else f"http://{self.gateway.address}/res"
        around = {"request_id": request_id, "stream": stream, "endpoint": endpoint, "metadata": {"headers": headers}}
        return f'{json.dumps(around, separators=(",", ":"))[:-1]},"data":{compact(body)}}}'.encode()

    def wait(self, channel: Channel) -> None:
        """Send the answer with 200 whatever it is, or 408. Like the platform, do not notice a client that leaves."""
        try:
            answer = channel.receive(self.gateway.plain_wait_s)
        except TimeoutError:
            self.gateway.plain.count("timed_out")
            self.reply(408, error_body("No answer came in time.", "request_timeout_error"))
        else:
            self.send(200, (answer or "").encode())

    def relay(self, channel: Channel) -> None:
        """Send chunk by chunk until the end, without a time limit. Stop when a write fails: the client has left."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.wfile.flush()
            while True:
                try:
                    chunk = channel.receive(self.gateway.keep_alive_s)
                except TimeoutError:
                    self.write_part(b": keep-alive\n\n")
                    continue
                if chunk is None:
                    break
                self.write_part(f"data: {chunk}\n\n".encode())
            self.write_part(b"data: [DONE]\n\n")
            self.write_part(b"")
        except ConnectionError as error:
            self.gateway.stream.count("clients_gone")
            log.info("the client of a stream has left: %s", error)

    def write_part(self, part: bytes) -> None:
        """Send one part of a chunked body; an empty part ends the body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.flush()

    # The node's side.

    def take_answer(self, body: bytes) -> None:
        """POST /res: pass the whole answer to a plain request on to its client."""
        plain = self.gateway.plain
        try:
            answer = members(body)
            request_id, data = read_id(answer), answer["data"].raw
        except (ValueError, KeyError) as error:
            plain.count("invalid")
            log.error("POST /res: not an answer (%r): %.200r", error, body)
            self.reply(400, error_body("An answer needs request_id and data.", "invalid_request_error"))
            return
        channel = plain.find(request_id)
        if plain.has_ended(request_id):
            plain.count("duplicate")
            log.error("POST /res: A SECOND ANSWER to %s", request_id)
        if channel is None:
            self.reply(404, {"error": "Request ID not found"})
            return
        plain.ended(request_id)
        try:
            channel.send(data, self.left)
        except SenderLeft:
            self.close_connection = True
            return
        plain.count("answered")
        self.reply(200, {"status": "ok"})

    def take_frames(self) -> None:
        """GET /res/ws: pass the frames of streams on. Other messages are dropped, as by the platform."""
        self.close_connection = True
        protocol = upgrade(self.connection, self.path, self.headers.items())
        if protocol is None:
            return
        self.gateway.stream.count("connections")
        with contextlib.suppress(SenderLeft, ConnectionError):
            for kind, message in messages(self.connection, self.rfile, protocol):
                if kind is not Opcode.TEXT or not self.take_frame(message):
                    self.gateway.stream.count("invalid")
                    log.error("/res/ws: skipped, not a frame: %.200r", message)

    def take_frame(self, message: bytes) -> bool:
        """Pass one frame on to its client. False: it is not a frame.

        Raises:
            SenderLeft: the client has left, and so has the node.
            ConnectionAbortedError: the frame came after the end. There the platform's handler crashes.
        """
        stream = self.gateway.stream
        try:
            frame = members(message)
            request_id = read_id(frame)
            end = read_flag(frame, "end")
        except (ValueError, KeyError):
            return False
        channel = stream.find(request_id)
        if stream.has_ended(request_id):
            stream.count("after_end")
            log.error("/res/ws: A FRAME AFTER THE END of %s: %.200r", request_id, message)
            raise ConnectionAbortedError
        if channel is None:
            return True
        data = frame.get("data")
        if data is not None and data.value is not None:
            if "\n" in data.raw or "\r" in data.raw:
                stream.count("newlines")
                log.error("/res/ws: a line break in the data of %s breaks its client's events", request_id)
            channel.send(data.raw, self.left)
            stream.count("chunks")
        if end:
            stream.ended(request_id)
            stream.count("ended")
            channel.close()
        return True

    def left(self) -> bool:
        """Return whether the node closed this connection, even if bytes from it are still unread."""
        poll = select.poll()
        poll.register(self.connection, getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def reply(self, status: int, body: dict[str, Any]) -> None:
        self.send(status, json.dumps(body).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def read_request(request: dict[str, Member]) -> tuple[str, bool]:
    """Return the model that is asked for, and whether the answer is to be a stream.

    Raises:
        ValueError: the request is wrong. The text says why.
    """
    model = request["model"].value if "model" in request else None
    if not isinstance(model, str) or not model:
        raise ValueError("model must be the name of a model")
    return model, read_flag(request, "stream")


def read_flag(document: dict[str, Member], name: str) -> bool:
    """Return a member that is true or false; missing and null are false. Raises ValueError for anything else."""
    value = document[name].value if name in document else None
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return bool(value)


def read_id(document: dict[str, Member]) -> str:
    """Return the request's id. Raises KeyError if there is none, ValueError if it is not a string."""
    value = document["request_id"].value
    if not isinstance(value, str):
        raise ValueError("request_id must be a string")
    return value


def error_body(message: str, kind: str) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
