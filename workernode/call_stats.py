"""What is known of asking upstream for one task: for the billing record, the log and the metrics. A leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BrokenPart:
    """The part of a streamed answer before a break; another call went on with it (docs/decisions/0012-resume.md)."""

    reason: str  # the fault's code, or "worker_died"
    at: float  # monotonic: when it broke
    tokens: int  # that the client had then, of all parts so far
    sent_at: float | None = None  # as in CallStats, as all that follows
    first_at: float | None = None
    usage: dict[str, Any] | None = None
    text_chunks: int = 0
    model: str | None = None


@dataclass(slots=True)
class CallStats:
    """Filled by workernode.upstream while it asks. Moments are monotonic seconds."""

    attempts: int = 0  # requests sent to upstream, repeats on a new connection included
    first_sent_at: float | None = None  # of the first attempt
    sent_at: float | None = None  # of the last attempt, as all that follows
    first_at: float | None = None  # the first chunk came, or the head of a plain answer
    done_at: float | None = None
    http_status: int = 0
    usage: dict[str, Any] | None = None  # the last one that was not null
    finish_reason: str | None = None
    model: str | None = None  # the model that answered
    text_chunks: int = 0  # chunks with text: what is billed of a stream whose usage never came

    broken: tuple[BrokenPart, ...] = ()  # of a stream that went on: its parts before the one that the rest is about

    def part_broke(self, reason: str, now: float, tokens: int) -> None:
        """The stream broke, and another call is to go on with it: what this part brought counts as well.

        Args:
            reason: the fault's code.
            tokens: that the client has of all parts.
        """
        part = BrokenPart(
            reason, now, tokens, self.sent_at, self.first_at, self.usage, self.text_chunks, self.model
        )  # fmt: skip
        self.broken = (*self.broken, part)
        self._forget_answer()

    @property
    def began_at(self) -> float | None:
        """When the call was sent that brought the first part."""
        return next((part.sent_at for part in self.broken if part.sent_at is not None), self.sent_at)

    @property
    def first_token_at(self) -> float | None:
        """When the first part began to come."""
        return next((part.first_at for part in self.broken if part.first_at is not None), self.first_at)

    def begin_attempt(self, now: float) -> None:
        """Upstream is asked (again): what the last attempt brought does not count."""
        self.attempts += 1
        self.sent_at = now
        self.first_sent_at = self.first_sent_at or now
        self._forget_answer()

    def _forget_answer(self) -> None:
        self.first_at = self.done_at = None
        self.usage = self.finish_reason = self.model = None
        self.http_status = self.text_chunks = 0
