"""What is known of asking upstream for one task: for the billing record, the log and the metrics. A leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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

    def begin_attempt(self, now: float) -> None:
        """Upstream is asked (again): what the last attempt brought does not count."""
        self.attempts += 1
        self.sent_at = now
        self.first_sent_at = self.first_sent_at or now
        self.first_at = self.done_at = None
        self.usage = self.finish_reason = self.model = None
        self.http_status = self.text_chunks = 0
