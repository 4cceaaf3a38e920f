"""The platform's gateway as the node meets it: takes answers on /res and /res/ws, and writes everything down.

It knows the ids that were registered, answers 404 to a POST for any other and drops its frames without a word, as the
platform's does (spec 1.2). Unlike it, this one survives a frame after the end, counts it, and misbehaves on cue.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from tests.support.wire import ClientLeft, Connection, Request, Server, head_of

ANY = ""  # stands for all ids that have no manners of their own


@dataclass(frozen=True, slots=True)
class Manners:
    """How the gateway treats the answers for one id, or for all. Without any: well."""

    times: int = 0  # only the first so many POSTs or upgrades suffer; 0: all
    # POST, before it is taken: it counts as refused.
    status: int = 0
    redirect_to: str = ""
    delay_ms: float = 0
    hang: bool = False  # nothing is said, the connection stays
    reset: bool = False
    # POST, after it was taken: the client has its answer, the node does not know.
    take_then_hang: bool = False
    take_then_reset: bool = False
    # The upgrade to WebSocket. The id is not known yet, so these count only where they are set for all.
    upgrade_status: int = 0
    upgrade_redirect_to: str = ""
    upgrade_hang: bool = False
    # WebSocket, once the id is known from its frame. `None`: never.
    cut_after: int | None = None  # RST after so many frames of this id were taken; 0: at the first, which is lost
    close_after: int | None = None  # the same with a proper close frame
    stop_reading_after: int | None = None  # the reader blocks: no more frames, no pongs, no close
    slow_read_ms: float = 0  # after each KiB read so long a pause; starts with the first frame of the id
    no_pong: bool = False  # reads on, but answers no ping
    close_after_end: bool = False  # close the connection once the id has its end


FIELDS = frozenset(one.name for one in dataclasses.fields(Manners))
GOOD = Manners()


@dataclass(slots=True)
class Post:
    """One POST as it came. `status` is what it was told, 0 for nothing; `taken`: whether the client got it."""

    id: str
    at: float
    body: bytes
    data: Any
    headers: dict[str, str]
    connection: int
    status: int = 0
    taken: bool = False


@dataclass(slots=True)
class Frame:
    """One text frame as it came. `taken`: its id was known and had no end yet."""

    id: str
    at: float
    text: str
    data: Any
    has_data: bool
    end: bool
    connection: int
    taken: bool = False


@dataclass(repr=False)
class Answer:
    """Everything that came for one id. Moments are Unix seconds."""

    id: str
    registered_at: float | None = None
    posts: list[Post] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    finished_at: float | None = None  # POST taken, or end frame taken
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float = 10) -> Answer:
        """Wait for the POST or the end frame; gives this answer."""
        if not self.done.wait(timeout):
            raise AssertionError(f"no answer for {self.id} within {timeout:g} s; {self.describe()}")
        return self

    @property
    def taken_frames(self) -> list[Frame]:
        return [one for one in list(self.frames) if one.taken]

    @property
    def chunks(self) -> list[Any]:
        """The data that the client saw, parsed: one for a POST, one for each frame that carried some."""
        return [one.data for one in list(self.posts) if one.taken] + [
            one.data for one in self.taken_frames if one.has_data
        ]

    @property
    def data(self) -> Any:
        """The last of the chunks; None if there was none."""
        return self.chunks[-1] if self.chunks else None

    @property
    def raw_chunks(self) -> list[str]:
        """The same as they came, byte for byte: the text of each `data` value."""
        texts = [one.body.decode() for one in list(self.posts) if one.taken]
        return [raw_data(text) for text in texts + [one.text for one in self.taken_frames if one.has_data]]

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object that the client saw last, or None."""
        error = self.data.get("error") if isinstance(self.data, dict) else None
        return error if isinstance(error, dict) else None

    @property
    def text(self) -> str:
        """The content that the client saw, put together."""
        return "".join(content_of(one) for one in self.chunks)

    @property
    def ends(self) -> int:
        """How many end frames came, whether or not they were taken."""
        return sum(one.end for one in self.frames)

    @property
    def after_end(self) -> list[Frame]:
        """Frames that came after the end: each would have crashed the platform's handler."""
        ends = [number for number, one in enumerate(self.frames) if one.end and one.taken]
        return self.frames[ends[0] + 1 :] if ends else []

    @property
    def dropped(self) -> list[Frame]:
        """Frames that came before the id was registered (or never was): the client never saw them."""
        return [one for one in self.frames if not one.taken and one not in self.after_end]

    @property
    def connections(self) -> list[int]:
        """The connections that carried it, in order, each once."""
        return list(dict.fromkeys([one.connection for one in self.posts] + [one.connection for one in self.frames]))

    @property
    def late_posts(self) -> list[Post]:
        """POSTs that came after the client had its answer."""
        finished = self.finished_at
        return [one for one in self.posts if finished is not None and not one.taken and one.at > finished]

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words; empty if the client was answered exactly once."""
        wrong = []
        if self.finished_at is None:
            wrong.append("no answer")
        if self.late_posts:
            wrong.append(f"{len(self.late_posts)} POSTs after it was answered")
        if self.after_end:
            wrong.append(f"{len(self.after_end)} frames after the end")
        if self.dropped:
            wrong.append(f"{len(self.dropped)} frames before it was registered")
        return [f"{self.id}: {one}" for one in wrong]

    def describe(self) -> str:
        """What came, in a line."""
        known = "registered" if self.registered_at is not None else "not registered"
        posts = [f"{one.status}{' taken' if one.taken else ''}" for one in self.posts]
        return f"{known}, POSTs: {posts}, frames: {len(self.frames)}, ends: {self.ends}"

    def __repr__(self) -> str:
        return f"<Answer {self.id}: {self.describe()}>"


@dataclass(slots=True)
class Socket:
    """One WebSocket connection's history."""

    connection: Connection
    request: Request
    protocol: ServerProtocol
    frames: int = 0
    pings: int = 0
    ids: list[str] = field(default_factory=list)
    close_code: int | None = None  # of the close frame that the node sent
    rubbish: list[bytes] = field(default_factory=list)  # frames that were no JSON object with an id
    slow_read_ms: float = 0
    no_pong: bool = False
    stopped: bool = False
    parts: list[bytes] = field(default_factory=list)  # of a fragmented message

    @property
    def headers(self) -> dict[str, str]:
        """The upgrade request's."""
        return self.request.headers

    @property
    def closed_at(self) -> float | None:
        return self.connection.closed_at


class FakeGateway(Server):
    """The server; see the module's words."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.sockets: list[Socket] = []  # every WebSocket there ever was, in order
        self.upgrades: list[Request] = []  # every attempt to open one, refused ones too
        self.strange: list[Request] = []  # requests for other paths or with other methods
        self.unknown: list[str] = []  # ids of POSTs and frames that were not registered at that moment
        self.rubbish: list[bytes] = []  # bodies and frames that were not what spec 1.2 says
        self._answers: dict[str, Answer] = {}
        self._due: dict[str, float] = {}  # monotonic: when these ids are to be registered
        self._manners: dict[str, Manners] = {}
        self._suffered: defaultdict[tuple[str, str], int] = defaultdict(int)
        super().__init__()

    # What a test says.

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
        """From now on treat this id (or all without manners of their own) so: fields of `Manners`. Nothing: well."""
        if unknown := set(how) - FIELDS:
            raise ValueError(f"no such manners: {', '.join(sorted(unknown))}")

        def behave() -> None:
            self._manners[id] = Manners(**how)
            for key in [key for key in self._suffered if key[0] == id]:
                del self._suffered[key]

        self.post(behave)

    # What a test reads.

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

    # What happens.

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
        words = _object(request.body)
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
            await self._decide(connection, answer, post, self._manners_of(id, "post"))
        except ClientLeft:
            post.status = 0
        self.notify()

    async def _decide(self, connection: Connection, answer: Answer, post: Post, manners: Manners) -> None:
        await connection.pause(manners.delay_ms / 1000)
        self._register_due(answer.id)
        if manners.hang:
            await connection.never()
        if manners.reset:
            connection.reset()
        elif manners.status or manners.redirect_to:
            post.status = manners.status or 307
            location = {"Location": manners.redirect_to} if manners.redirect_to else {}
            await _reply(connection, post.status, {"error": f"lab error {post.status}"}, location)
        elif answer.registered_at is None or answer.done.is_set():
            if not answer.done.is_set():
                self.unknown.append(post.id)
            post.status = 404
            await _reply(connection, 404, {"error": "Request ID not found"})
        else:
            post.taken = True
            self._finish(answer)
            if manners.take_then_hang:
                await connection.never()
            elif manners.take_then_reset:
                connection.reset()
            else:
                post.status = 200
                await _reply(connection, 200, {"status": "ok"})

    async def _upgrade(self, connection: Connection, request: Request) -> None:
        self.upgrades.append(request)
        self.notify()
        manners = self._manners_of(ANY, "upgrade")
        if manners.upgrade_hang:
            await connection.never()
        if manners.upgrade_redirect_to or manners.upgrade_status:
            location = {"Location": manners.upgrade_redirect_to} if manners.upgrade_redirect_to else {}
            await _reply(connection, manners.upgrade_status or 307, {"error": "no upgrade"}, location)
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
        words = _object(message)
        if words is None or not isinstance(words.get("request_id"), str):
            link.rubbish.append(message)
            self.rubbish.append(message)
            return
        id, end = words["request_id"], words.get("end") is True
        answer, manners = self.answer(id), self._manners_of(id, "frame")
        if id not in link.ids:
            link.ids.append(id)
            link.slow_read_ms, link.no_pong = manners.slow_read_ms, manners.no_pong
            if manners.slow_read_ms:
                link.connection.read_limit = 1024
                link.connection.shrink()
        taken = len(answer.taken_frames) if manners is not GOOD else 0
        if manners.cut_after == 0 or manners.close_after == 0 or manners.stop_reading_after == 0:
            self._break(link, manners)  # the frame is lost
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
        if taken + 1 in (manners.cut_after, manners.close_after, manners.stop_reading_after):
            self._break(link, manners)
        elif end and manners.close_after_end:
            link.protocol.send_close(1000)

    def _break(self, link: Socket, manners: Manners) -> None:
        if manners.cut_after is not None:
            link.stopped = True
            link.connection.reset()
        elif manners.stop_reading_after is not None:
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

    def _manners_of(self, id: str, what: str) -> Manners:
        key = id if id in self._manners else ANY
        manners = self._manners.get(key, GOOD)
        if manners.times and what != "frame":
            self._suffered[key, what] += 1
            if self._suffered[key, what] > manners.times:
                return GOOD
        return manners


def raw_data(text: str) -> str:
    """The text of the `data` value in an answer of spec 1.2, exactly as written."""
    start = text.index('"data"') + len('"data"')
    start += len(text[start:]) - len(text[start:].lstrip(" :"))
    _, end = json.JSONDecoder().raw_decode(text, start)
    return text[start:end]


def content_of(chunk: Any) -> str:
    """The content in one completion or chunk; empty where there is none."""
    try:
        choice = chunk["choices"][0]
        return (choice.get("message") or choice.get("delta") or {}).get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(text: bytes) -> dict[str, Any] | None:
    """A JSON object, as strict as the platform's parser (no NaN, valid UTF-8), or None."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_on(link: Socket) -> None:
    if not link.connection.transport.is_closing():
        link.connection.transport.resume_reading()


async def _reply(connection: Connection, status: int, body: Mapping[str, str], headers: Mapping[str, str] = {}) -> None:
    text = json.dumps(body, separators=(",", ":")).encode()
    told = {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}
    await connection.send(head_of(status, told) + text)
