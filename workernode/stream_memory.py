"""What the client of a stream was sent, in memory that the supervisor shares: it outlives a worker that is killed.

Each slot has its own piece. A worker writes text and numbers there before they leave, and then, with one store of
64 bits, the mark that makes them count; so the piece can be read whenever the worker was killed
(docs/decisions/0012-resume.md). One process writes at a time, and the supervisor reads after its death.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field, replace
from multiprocessing import reduction
from typing import Any

import msgspec

from workernode.call_stats import CallStats
from workernode.net.handover import Handover
from workernode.protocol import SavedStream
from workernode.resume import Opening, Transcript

SLOT = 65536  # bytes of a slot's piece
TEXT_AT = 4096  # before it: the marks, and what is known of the whole stream
HEAD_AT = 64
# The places of the 64-bit numbers at the beginning of a piece.
SENT, PENDING, PENDING_BYTES, HEAD_BYTES = range(4)
# The bits of a mark: bytes of text 0 to 19, tokens 20 to 39, a running number 40 to 58, then three flags.
_FIELD = (1 << 20) - 1
_HAS_ROLE, _IS_FINISHED, _IS_EXACT = 1 << 60, 1 << 61, 1 << 62


@dataclass(frozen=True)
class _Head:
    """What is known of one part of a stream when its first chunk leaves."""

    members: dict[str, Any] = field(default_factory=dict)  # Opening.members
    tokens_before: int = 0  # of the parts before
    resumes: int = 0
    asked: CallStats = field(default_factory=CallStats)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Head)


class StreamMemory:
    """The pieces of one worker's slots. It goes to the worker as an argument of its process.

    The file is in memory and has no name (memfd): a /dev/shm that is tiny or read-only does not matter. Only pages that
    are written take memory.

    Raises:
        OSError: the system has no such file.
    """

    def __init__(self, slots: int, fd: int | None = None) -> None:
        if fd is None:
            if not hasattr(os, "memfd_create"):
                raise OSError("the system has no memfd")
            fd = os.memfd_create("workernode-streams")
            os.ftruncate(fd, slots * SLOT)
        self._slots = slots
        self._fd = fd
        self._map = mmap.mmap(fd, slots * SLOT)

    def slot(self, number: int) -> SlotMemory:
        """Return the piece of a slot."""
        return SlotMemory(memoryview(self._map)[number * SLOT : (number + 1) * SLOT])

    def close(self) -> None:
        """Release the file; the memory lives as long as a slot of it is used."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[Any, tuple[int, Any]]:
        return _rebuilt, (self._slots, reduction.DupFd(self._fd))


def _rebuilt(slots: int, fd: Any) -> StreamMemory:
    return StreamMemory(slots, fd.detach())


class SlotMemory:
    """The piece of one slot."""

    def __init__(self, piece: memoryview) -> None:
        self._piece = piece
        self._numbers = piece[:HEAD_AT].cast("Q")

    def forget(self) -> None:
        """Nothing can be read here until a stream is written."""
        self._numbers[HEAD_BYTES] = 0

    def open(self, head: bytes) -> bool:
        """Begin a stream, or a part of one; False if it does not fit."""
        self.forget()
        if len(head) > TEXT_AT - HEAD_AT:
            return False
        self._piece[HEAD_AT : HEAD_AT + len(head)] = head
        self._numbers[HEAD_BYTES] = len(head)
        return True

    def add(self, at: int, text: bytes) -> bool:
        """Write a part of the text, which does not count yet; False if it does not fit."""
        start = TEXT_AT + at
        if start + len(text) > SLOT:
            return False
        self._piece[start : start + len(text)] = text
        return True

    def begin(self, mark: int, size: int) -> None:
        """What the mark names is about to leave, in so many bytes."""
        self._numbers[PENDING_BYTES] = size
        self._numbers[PENDING] = mark

    def done(self, mark: int) -> None:
        """What the mark names has left."""
        self._numbers[SENT] = self._numbers[PENDING] = mark

    def read(self, left: int) -> SavedStream | None:
        """Return what the client was sent by a worker that is dead; None if that is not known.

        Args:
            left: bytes in the worker's pipe (handover.py): they were about to be sent, and were not.
        """
        size, sent, pending = self._numbers[HEAD_BYTES], self._numbers[SENT], self._numbers[PENDING]
        if not size:
            return None
        mark = sent
        if pending != sent and not pending & _IS_EXACT:
            return None
        if pending != sent and left == 0:
            mark = pending
        elif pending != sent and left != self._numbers[PENDING_BYTES]:
            return None
        try:
            head = _DECODER.decode(self._piece[HEAD_AT : HEAD_AT + size])
            text = bytes(self._piece[TEXT_AT : TEXT_AT + (mark & _FIELD)]).decode()
        except (msgspec.MsgspecError, ValueError):  # half of a surrogate pair
            return None
        tokens = mark >> 20 & _FIELD
        head.asked.text_chunks = tokens - head.tokens_before
        return SavedStream(
            head.members, bool(mark & _HAS_ROLE), text, tokens, head.resumes, bool(mark & _IS_FINISHED),
            head.asked,
        )  # fmt: skip


class StreamSaver:
    """Writes what one stream after the other sends into a slot's memory (net.handover.Note). Owned by one task.

    Args:
        handover: the worker's pipe.
    """

    def __init__(self, memory: SlotMemory, handover: Handover) -> None:
        self._memory = memory
        self.handover = handover
        self._mark = self._bytes = self._count = 0
        self._part = -1  # the part whose head is in the memory
        self._is_open = False

    def start(self) -> None:
        """Another stream begins; call before anything of it leaves."""
        self._memory.forget()
        self._memory.done(0)
        self._mark = self._bytes = self._count = 0
        self._part, self._is_open = -1, True

    def prepare(self, transcript: Transcript, text: str, stats: CallStats) -> bool:
        """Write what is about to leave.

        Args:
            transcript: with what is about to leave.
            text: of it, what was not passed to this method yet.

        Returns:
            False if this stream cannot be saved: it is too long, or no plain text.
        """
        if not self._is_open:
            return False
        raw = text.encode("utf-8", "surrogatepass")
        self._is_open = transcript.is_plain and self._has_head(transcript, stats) and self._memory.add(self._bytes, raw)
        if not self._is_open:
            self._memory.forget()
            return False
        self._bytes += len(raw)
        self._count = (self._count + 1) & 0x7FFFF
        opening = transcript.opening or Opening({})
        self._mark = self._bytes | min(transcript.tokens, _FIELD) << 20 | self._count << 40
        self._mark |= _HAS_ROLE * opening.has_role | _IS_FINISHED * transcript.is_finished
        return True

    def stop(self) -> None:
        """What leaves from now on is not saved: the stream ends here, whatever happens."""
        self._is_open = False
        self._memory.forget()

    def begin(self, size: int, *, is_exact: bool) -> None:
        """See Note."""
        self._memory.begin(self._mark | _IS_EXACT * is_exact, size)

    def done(self) -> None:
        """See Note."""
        self._memory.done(self._mark)

    def _has_head(self, transcript: Transcript, stats: CallStats) -> bool:
        if self._part == transcript.part:
            return True
        self._part = transcript.part
        members = transcript.opening.members if transcript.opening else {}
        head = _Head(members, transcript.tokens_before, transcript.resumes, replace(stats, usage=None, text_chunks=0))
        try:
            return self._memory.open(_ENCODER.encode(head))
        except (msgspec.MsgspecError, OverflowError, TypeError, ValueError):  # what upstream sent has no such form
            return False
