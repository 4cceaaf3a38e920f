"""The fake gateway itself: HTTP and WebSocket."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from tests.support.gateway.answers import Answer, Frame, Post, json_object
from tests.support.gateway.behaviour import ANY, FIELDS, GOOD, Behaviour
from tests.support.gateway.sockets import Socket
from tests.support.wait import patient
from tests.support.wire import ClientLeft, Connection, Request, head_of
from tests.support.wire_server import Server


class FakeGateway(Server):
    """The server, with what a test asks of it first and what it does after that."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.sockets: list[Socket] = []  # every WebSocket there ever was, in order
        self.upgrades: list[Request] = []  # every attempt to open one, refused ones too
        self.strange: list[Request] = []  # requests for other paths or with other methods
        self.unknown: list[str] = []  # ids of POSTs and frames that were not registered at that moment
        self.rubbish: list[bytes] = []  # bodies and frames that break spec 1.2
        self._answers: dict[str, Answer] = {}
        self._due: dict[str, float] = {}  # monotonic: when these ids are to be registered
        self._behaviours: dict[str, Behaviour] = {}
        self._used: defaultdict[tuple[str, str], int] = defaultdict(int)
        super().__init__()

    # --- a test sets ---

    @property
    def post_url(self) -> str:
        return f"http://{self.address}/res"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.address}/res/ws"

    def register(self, *ids: str) -> None:
        """Somebody waits for these ids from now on."""
        self.post(self._register, ids)

    def register_soon(self, *ids: str) -> None:
        """The same without waiting until it is done."""
        self.loop.call_soon_threadsafe(self._register, ids)

    def register_after(self, seconds: float, *ids: str) -> None:
        """The same in a while, as a gateway that publishes first and registers later. What comes after that moment is
        taken, however late this process, which is also everything else in a test, gets to its timers.
        """
        self._due.update(dict.fromkeys(ids, time.monotonic() + seconds))
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, self._register, ids)

    def forget(self, *ids: str) -> None:
        """Nobody waits for these any more: their five minutes are over, or the gateway was restarted."""

        def forget() -> None:
            for one in ids:
                self.answer(one).registered_at = None

        self.post(forget)

    def behave(self, id: str = ANY, **how: Any) -> None:
        """From now on treat this id (or all that have no behaviour of their own) by these fields of `Behaviour`."""
        if unknown := set(how) - FIELDS:
            raise ValueError(f"no such behaviour: {', '.join(sorted(unknown))}")

        def behave() -> None:
            self._behaviours[id] = Behaviour(**how)
            for key in [key for key in self._used if key[0] == id]:
                del self._used[key]

        self.post(behave)

    # --- a test reads ---

    def answer(self, id: str) -> Answer:
        """Everything that came, or will come, for this id."""
        return self._answers.setdefault(id, Answer(id))

    @property
    def answers(self) -> list[Answer]:
        """All ids that were registered or came."""
        return list(self._answers.values())

    def wait_all(self, ids: Iterable[str], timeout: float = 30) -> list[Answer]:
        """Wait until every id has its answer; gives the answers in the order of the ids."""
        wanted = [self.answer(one) for one in ids]
        timeout = patient(timeout)
        deadline = time.monotonic() + timeout
        for answer in wanted:
            if not answer.done.wait(max(0, deadline - time.monotonic())):
                left = [one for one in wanted if not one.done.is_set()]
                raise AssertionError(
                    f"{len(left)} of {len(wanted)} answers missing after {timeout:g} s, first: {left[0].id}: "
                    f"{left[0].describe()}; {self.summary()}"
                )
        return wanted

    def faults(self, ids: Iterable[str] | None = None) -> list[str]:
        """What is wrong with the answers of these ids (default: all), in words; empty if each came exactly once."""
        return [fault for one in (ids or [one.id for one in self.answers]) for fault in self.answer(one).faults]

    def wait_for_frames(self, id: str, count: int, timeout: float = 10) -> list[Frame]:
        """Wait until so many frames have come for the id, taken or not; gives them."""
        answer = self.answer(id)
        self.wait_until(lambda: len(answer.frames) >= count, timeout, f"{count} frames for {id}")
        return answer.frames[:]

    def wait_for_posts(self, id: str, count: int, timeout: float = 10) -> list[Post]:
        """Wait until so many POSTs have come for the id, taken or not; gives them."""
        answer = self.answer(id)
        self.wait_until(lambda: len(answer.posts) >= count, timeout, f"{count} POSTs for {id}")
        return answer.posts[:]

    def summary(self) -> str:
        finished = sum(one.done.is_set() for one in self.answers)
        return (
            f"gateway: {finished} of {len(self._answers)} ids answered, {len(self.posts)} POSTs, {len(self.sockets)} "
            f"WebSockets, {len(self.unknown)} for unknown ids, {len(self.rubbish)} rubbish, {super().summary()}"
        )

    # --- requests and frames ---

    async def serve(self, connection: Connection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if path == "/res" and request.method == "POST":
            await self._post(connection, request)
        elif path == "/res/ws" and request.headers.get("upgrade", "").lower() == "websocket":
            await self._upgrade(connection, request)
        else:
            self.strange.append(request)
            await _reply(connection, 404, {"error": "page not found"})

    async def _post(self, connection: Connection, request: Request) -> None:
        words = json_object(request.body)
        if words is None or not isinstance(words.get("request_id"), str):
            self.rubbish.append(request.body)
            await _reply(connection, 400, {"error": "Invalid request"})
            return
        id = words["request_id"]
        post = Post(id, request.at, request.body, words.get("data"), request.headers, connection.number)
        answer = self.answer(id)
        answer.posts.append(post)
        self.posts.append(post)
        self.notify()
        try:
            await self._decide(connection, answer, post, self._behaviour_of(id, "post"))
        except ClientLeft:
            post.status = 0
        self.notify()

    async def _decide(self, connection: Connection, answer: Answer, post: Post, behaviour: Behaviour) -> None:
        await connection.pause(behaviour.delay_ms / 1000)
        self._register_due(answer.id)
        if behaviour.hang:
            await connection.never()
        if behaviour.reset:
            connection.reset()
        elif behaviour.status or behaviour.redirect_to:
            post.status = behaviour.status or 307
            location = {"Location": behaviour.redirect_to} if behaviour.redirect_to else {}
            await _reply(connection, post.status, {"error": f"lab error {post.status}"}, location)
        elif answer.registered_at is None or answer.done.is_set():
            if not answer.done.is_set():
                self.unknown.append(post.id)
            post.status = 404
            await _reply(connection, 404, {"error": "Request ID not found"})
        else:
            post.taken = True
            self._finish(answer)
            if behaviour.take_then_hang:
                await connection.never()
            elif behaviour.take_then_reset:
                connection.reset()
            else:
                post.status = 200
                await _reply(connection, 200, {"status": "ok"})

    async def _upgrade(self, connection: Connection, request: Request) -> None:
        self.upgrades.append(request)
        self.notify()
        behaviour = self._behaviour_of(ANY, "upgrade")
        if behaviour.upgrade_hang:
            await connection.never()
        if behaviour.upgrade_redirect_to or behaviour.upgrade_status:
            location = {"Location": behaviour.upgrade_redirect_to} if behaviour.upgrade_redirect_to else {}
            await _reply(connection, behaviour.upgrade_status or 307, {"error": "no upgrade"}, location)
            return
        protocol = ServerProtocol(max_size=128 << 20)
        protocol.receive_data(request.head)
        (asked,) = protocol.events_received()
        protocol.send_response(protocol.accept(asked))  # type: ignore[arg-type]
        link = Socket(connection, request, protocol)
        self.sockets.append(link)
        connection.on_bytes = lambda data: self._received(link, data)
        connection.transport.write(b"".join(protocol.data_to_send()))
        self.notify()

    def _received(self, link: Socket, data: bytes) -> None:
        protocol, connection = link.protocol, link.connection
        if link.stopped:
            return
        try:
            protocol.receive_data(data)
        except ProtocolError as error:
            self.rubbish.append(str(error).encode())
        for event in protocol.events_received():
            if isinstance(event, WireFrame) and not link.stopped:
                self._frame(link, event)
        if link.slow_read_ms and not link.stopped:
            connection.transport.pause_reading()
            self.loop.call_later(link.slow_read_ms / 1000, _read_on, link)
        if not connection.transport.is_closing() and not link.stopped:
            for piece in protocol.data_to_send():
                if piece:
                    connection.transport.write(piece)
                else:
                    connection.finish()
        self.notify()

    def _frame(self, link: Socket, frame: WireFrame) -> None:
        if frame.opcode is Opcode.PING:
            link.pings += 1
            if link.no_pong:
                link.protocol.data_to_send()
        elif frame.opcode is Opcode.CLOSE:
            link.close_code = link.protocol.close_rcvd.code if link.protocol.close_rcvd else None
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            link.parts.append(bytes(frame.data))
            if frame.fin:
                message = b"".join(link.parts)
                link.parts.clear()
                self._message(link, message)

    def _message(self, link: Socket, message: bytes) -> None:
        link.frames += 1
        words = json_object(message)
        if words is None or not isinstance(words.get("request_id"), str):
            link.rubbish.append(message)
            self.rubbish.append(message)
            return
        id, end = words["request_id"], words.get("end") is True
        answer, behaviour = self.answer(id), self._behaviour_of(id, "frame")
        if id not in link.ids:
            link.ids.append(id)
            link.slow_read_ms, link.no_pong = behaviour.slow_read_ms, behaviour.no_pong
            if behaviour.slow_read_ms:
                link.connection.read_limit = 1024
                link.connection.shrink()
        taken = len(answer.taken_frames) if behaviour is not GOOD else 0
        if behaviour.cut_after == 0 or behaviour.close_after == 0 or behaviour.stop_reading_after == 0:
            self._break(link, behaviour)  # the frame is lost
            return
        frame = Frame(
            id, time.time(), message.decode(), words.get("data"), "data" in words, end, link.connection.number
        )
        self._register_due(id)
        frame.taken = answer.registered_at is not None and not answer.done.is_set()
        answer.frames.append(frame)
        if not frame.taken:
            if not answer.done.is_set():
                self.unknown.append(id)
            return
        if end:
            self._finish(answer)
        if taken + 1 in (behaviour.cut_after, behaviour.close_after, behaviour.stop_reading_after):
            self._break(link, behaviour)
        elif end and behaviour.close_after_end:
            link.protocol.send_close(1000)

    def _break(self, link: Socket, behaviour: Behaviour) -> None:
        if behaviour.cut_after is not None:
            link.stopped = True
            link.connection.reset()
        elif behaviour.stop_reading_after is not None:
            link.stopped = True
            link.connection.stop_reading()
        else:
            link.protocol.send_close(1001)

    def _finish(self, answer: Answer) -> None:
        answer.finished_at = time.time()
        answer.done.set()

    def _register_due(self, id: str) -> None:
        if time.monotonic() >= self._due.get(id, math.inf):
            self._register([id])

    def _register(self, ids: Iterable[str]) -> None:
        for one in ids:
            self._due.pop(one, None)
            self.answer(one).registered_at = time.time()
        self.notify()

    def _behaviour_of(self, id: str, what: str) -> Behaviour:
        key = id if id in self._behaviours else ANY
        behaviour = self._behaviours.get(key, GOOD)
        if behaviour.times and what != "frame":
            self._used[key, what] += 1
            if self._used[key, what] > behaviour.times:
                return GOOD
        return behaviour


def _read_on(link: Socket) -> None:
    if not link.connection.transport.is_closing():
        link.connection.transport.resume_reading()


async def _reply(connection: Connection, status: int, body: Mapping[str, str], headers: Mapping[str, str] = {}) -> None:
    text = json.dumps(body, separators=(",", ":")).encode()
    head = {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}
    await connection.send(head_of(status, head) + text)
