"""What came for one request id, and what its client saw of it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.support.wait import patient


@dataclass(slots=True)
class Post:
    """One POST as it came. `status` is what it was answered, 0 for nothing; `taken`: whether the client got it."""

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
        timeout = patient(timeout)
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


def json_object(text: bytes) -> dict[str, Any] | None:
    """A JSON object, as strict as the platform's parser (no NaN, valid UTF-8), or None."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
