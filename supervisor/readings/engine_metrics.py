"""What the metrics of an engine (llama.cpp, vLLM) show of its queue. Pure; a leaf."""

from __future__ import annotations

import re

# llama.cpp's tools/server/README.md; vLLM's docs/usage/metrics.md: one line an engine.
WAITING = re.compile(r"^(?:llamacpp:requests_deferred|vllm:num_requests_waiting)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def waiting_requests(metrics: str) -> int:
    """Return how many requests wait, by the metrics in Prometheus' text format; 0 if they do not show it."""
    try:
        return int(sum(float(value) for value in WAITING.findall(metrics)))
    except (ValueError, OverflowError):
        return 0
