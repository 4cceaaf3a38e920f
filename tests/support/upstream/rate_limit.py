"""The upstream's rate limit and its headers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Limit:
    """A rate limit: a bucket of `burst` requests for each key, refilled `rpm` times a minute."""

    rpm: float
    burst: float
    headers: str  # openai, azure, retry-after, none
    buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: int = 0

    def take(self, key: str) -> tuple[bool, dict[str, str]]:
        """Whether the request may pass, and the rate-limit headers of its answer."""
        now = time.monotonic()
        left, at = self.buckets.get(key, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.rpm / 60)
        passes = left >= 1
        left -= passes
        self.refused += not passes
        self.buckets[key] = left, now
        return passes, self._headers(passes, left)

    def _headers(self, passes: bool, left: float) -> dict[str, str]:
        full, wait = ((goal - left) * 60 / self.rpm for goal in (self.burst, 1))
        headers: dict[str, str] = {}
        if self.headers == "openai":
            headers["x-ratelimit-limit-requests"] = str(int(self.burst))
            headers["x-ratelimit-remaining-requests"] = str(int(left))
            headers["x-ratelimit-reset-requests"] = f"{full:.3f}s"
        if self.headers == "azure":
            headers["x-ratelimit-remaining-requests"] = str(int(left))
            headers["x-ratelimit-reset-requests"] = str(int(full))
        if not passes and self.headers in ("openai", "azure"):
            headers["retry-after-ms"] = str(int(wait * 1000) + 1)
        if not passes and self.headers in ("openai", "retry-after"):
            headers["retry-after"] = str(int(wait) + 1)
        return headers
