"""What the client of one stream was sent: enough for another call to go on with it. Pure.

The first part of a stream is passed on byte for byte. Of a part that goes on, each chunk gets the id, the creation time
and the model of the first one and loses its role, so that the client reads one stream (docs/decisions/0012-resume.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from workernode.json_access import as_count, as_list, member
from workernode.resume.echo import SHORTEST, Echo
from workernode.resume.stop_sequences import StopSequences
from workernode.resume_style import ResumeStyle
from workernode.strict_json import dumps, read_object

MOST_RESUMES = 2  # of one task
OWN = ("id", "created", "model")  # members of a chunk that are the same in the whole stream
TEXT = (str, type(None))  # types of `content` that another call can go on behind: Mistral also sends a list of parts
THINKING = "<think>"  # reasoning that stands in the text: templates cut it out of a message of the assistant


@dataclass(frozen=True)
class Opening:
    """What the first chunk of a stream fixes for the whole stream."""

    members: dict[str, Any]  # its OWN
    has_role: bool = False  # the client knows whose text it is


class PassedChunk(Protocol):
    """What is read of a chunk; workernode.upstream has the real ones."""

    @property
    def raw(self) -> bytes:
        """One line of JSON."""

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ends with this chunk; None if it does not."""


class Transcript:
    """The stream of one client, in order. Owned by one task.

    Attributes:
        tokens: produced for the text that was passed on, in all parts: its chunks, if nobody has told better.
        is_finished: the finish_reason was passed on, so that the text is whole.
        opening: of the first chunk; None before it.
        part: number of the call that the text comes from; 0 is the first.
        resumes: how often the stream went on, as far as that counts against MOST_RESUMES.
        is_plain: nothing but text has come.
        tokens_before: tokens of the parts before this one.

    Args:
        data: the client's chat request, which `can_be_continued` has allowed.
        style: how upstream is asked to go on.
    """

    def __init__(self, data: Mapping[str, Any], style: ResumeStyle) -> None:
        self.tokens = 0
        self.is_finished = False
        self.opening: Opening | None = None
        self.part = self.resumes = 0
        self._texts: list[str] = []
        self._saved = 0  # of them `unsaved` has returned so many
        self._end = ""  # the last characters of the text: as many as a stop sequence may begin with
        self._style = style
        self._stops = StopSequences(data.get("stop"))
        self.is_plain = True
        self._held: list[tuple[bytes, str]] = []  # chunks that may begin a stop sequence, and their texts
        self._echo = Echo("")
        self.tokens_before = 0
        self._produced = 0  # tokens of this part: chunks with text, or what upstream has counted

    @property
    def text(self) -> str:
        """What was passed on."""
        return "".join(self._texts)

    def unsaved(self) -> str:
        """Return the text that was passed on since the last call."""
        texts, self._saved = self._texts[self._saved :], len(self._texts)
        return "".join(texts)

    @property
    def can_go_on(self) -> bool:
        """Whether one more call may continue the text."""
        return self.resumes < MOST_RESUMES and self.is_continuable

    @property
    def is_continuable(self) -> bool:
        """Whether the text is one that another call can continue."""
        if self.is_finished or not self.is_plain:
            return False
        text = self.text
        if self._style is ResumeStyle.PREFIX and 0 < len(text) < SHORTEST:
            return False
        return not text.lstrip().startswith(THINKING) and not text.endswith("\ufffd") and is_encodable(text)

    def restore(self, opening: Opening | None, text: str, tokens: int, resumes: int) -> None:
        """Begin with what another worker has passed on; call `go_on(counts=False)` next.

        Args:
            opening: the members that each chunk has; None: no chunk was passed on.
            text: all of the text that the client was sent.
            tokens: produced for that text.
            resumes: how often the stream goes on, this time included if it counts.
        """
        self.opening, self.tokens, self.resumes = opening, tokens, resumes
        self._texts = [text]

    def go_on(self, *, counts: bool = True) -> None:
        """The next chunk is of another call. What was held back comes again.

        Args:
            counts: against MOST_RESUMES. The supervisor counts the times that a worker died.
        """
        self.part += 1
        self.resumes += counts
        self._held = []
        self.tokens_before, self._produced = self.tokens, 0
        self._end = self._end_of(self.text)
        self._echo = Echo(self.text if self._style is ResumeStyle.PREFIX else "")

    def counted(self, tokens: int) -> int:
        """The text that was passed on has so many tokens; return how many more than its chunks have shown."""
        more = max(0, tokens - self.tokens)
        self.tokens += more
        return more

    def pass_on(self, chunks: Iterable[PassedChunk]) -> list[bytes]:
        """Return the chunks that leave now, as they leave; they count as passed on."""
        leaving: list[bytes] = []
        for chunk in chunks:
            self._add(chunk, leaving)
        return leaving

    def rest(self) -> list[bytes]:
        """The answer is whole: return the chunks that were held back. They count as passed on."""
        leaving: list[bytes] = []
        self._release(leaving)
        return leaving

    def ending(self) -> bytes:
        """Return the chunk that ends a text for which the client's limit leaves no token."""
        self.is_finished = True
        members = self.opening.members if self.opening else {}
        choice = {"index": 0, "delta": {}, "finish_reason": "length"}
        return dumps({**members, "object": "chat.completion.chunk", "choices": [choice]})

    def _add(self, chunk: PassedChunk, leaving: list[bytes]) -> None:
        value = read_object(chunk.raw)
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        delta = member(choice, "delta")
        content, is_last = member(delta, "content"), chunk.finish_reason is not None
        raw, text = chunk.raw, content if isinstance(content, str) else ""
        self._produced += bool(text)
        self._note(value, choice, delta)
        if self.part:
            text = text if self._echo.is_over else self._echo.take_out(text, is_last=is_last)
            raw = self._joined(value, choice, delta, text, is_last)
        self._held.append((raw, text))
        self._end = self._end_of(self._end + text)
        self.is_finished = self.is_finished or is_last
        if self.is_finished or not self._stops.may_begin_at_the_end_of(self._end):
            self._release(leaving)

    def _end_of(self, text: str) -> str:
        return text[-self._stops.longest :] if self._stops.longest else ""

    def _release(self, leaving: list[bytes]) -> None:
        for raw, text in self._held:
            if text:
                self._texts.append(text)
            if raw:
                leaving.append(raw)
        self._held = []
        self.tokens = self.tokens_before + self._produced

    def _note(self, chunk: dict[str, Any], choice: object, delta: object) -> None:
        """What a chunk says of the whole stream."""
        if self.opening is None:
            self.opening = Opening({name: chunk[name] for name in OWN if name in chunk})
        if member(delta, "role") and not self.opening.has_role and not self.part:
            self.opening = Opening(self.opening.members, has_role=True)
        if member(choice, "logprobs") or member(choice, "index") not in (0, None):
            self.is_plain = False
        if len(as_list(chunk.get("choices"))) > 1 or not isinstance(member(delta, "content"), TEXT):
            self.is_plain = False
        if isinstance(delta, dict) and any(value for name, value in delta.items() if name not in ("role", "content")):
            self.is_plain = False
        produced = as_count(member(chunk.get("usage"), "completion_tokens"))
        if produced is not None:
            self._produced = max(self._produced, produced)

    def _joined(self, chunk: dict[str, Any], choice: object, delta: object, text: str, is_last: bool) -> bytes:
        """Return a chunk of a later part as the client reads it; b"" if nothing of it is left."""
        assert self.opening is not None
        chunk = {**chunk, **self.opening.members}
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            chunk["usage"] = {name: self._summed(name, value) for name, value in usage.items()}
        if isinstance(choice, dict) and isinstance(delta, dict):
            kept = {name: value for name, value in delta.items() if name not in ("role", "content")}
            if not isinstance(delta.get("content"), TEXT):
                kept["content"] = delta["content"]
            if "role" in delta and not self.opening.has_role:
                kept["role"] = delta["role"]
                self.opening = Opening(self.opening.members, has_role=True)
            if text:
                kept["content"] = text
            elif not is_last and not chunk.get("usage") and not any(kept.values()):
                return b""
            chunk["choices"] = [{**choice, "delta": kept}, *chunk["choices"][1:]]
        return dumps(chunk)

    def _summed(self, name: str, value: Any) -> Any:
        """A figure of usage for all parts: the tokens of the earlier ones are the answer's, too."""
        is_sum = name in ("completion_tokens", "total_tokens") and type(value) is int
        return value + self.tokens_before if is_sum else value


def is_encodable(text: str) -> bool:
    """Return whether the text is whole: a cut between the halves of a surrogate pair leaves what no server reads."""
    try:
        text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return False
    return True
