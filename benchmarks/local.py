"""The embedded model under 16 clients: the dynamic cap beside caps that stay (issue 6, "Done when" 1)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks import machine
from benchmarks.figures import BenchmarkError, Sample, chunks_in, first_ms
from benchmarks.progress import MeasurementProgress
from benchmarks.report import markdown
from benchmarks.testbed import NODE, ROOT, Parties, Testbed
from devstack.embedded import MODEL
from tests.support.node import Node

matplotlib.use("Agg")  # no screen is needed
from matplotlib import pyplot

CAPS = (1, 2, 4, 8, 16)
SLOTS = 8
CLIENTS = 16
TOKENS = 64  # the longest answer
FIXED_S, QUICK_FIXED_S = 30.0, 10.0
DYNAMIC_S, QUICK_DYNAMIC_S = 180.0, 75.0
WARM_S = 5.0  # of a fixed cap's time does not count
THERE_S = 60.0  # the dynamic cap has so long to find its place
MEAN_S = 10  # over how long tokens a second are a mean in the time line
READY_S = 120.0  # the model is unpacked and loaded
FIXED_COMMAND = [sys.executable, "-m", "benchmarks.fixed_cap"]


@dataclass
class Trace:
    """One node under load. Seconds count from when it was ready."""

    cap: int | None  # None: the dynamic one
    load: float  # of the machine when it began
    tokens_per_s: float = 0.0
    first_ms: float | None = None  # median; None: no token came
    caps: list[tuple[float, int]] = field(default_factory=list)  # second, cap
    rates: list[tuple[float, float]] = field(default_factory=list)  # second, tokens a second
    firsts: list[tuple[float, float]] = field(default_factory=list)  # second, first-token time in s


@dataclass
class Found:
    """All of a run."""

    began: str
    fixed: list[Trace]
    dynamic: Trace

    @property
    def best(self) -> Trace:
        """The best fixed cap."""
        return max(self.fixed, key=lambda one: one.tokens_per_s)

    @property
    def share(self) -> float:
        """The dynamic cap's tokens a second, once it had its time, of the best fixed one's."""
        if not self.best.tokens_per_s:
            raise BenchmarkError("no token came with any cap: the machine is too busy, or the model does not answer")
        return self.dynamic.tokens_per_s / self.best.tokens_per_s

    @property
    def there_s(self) -> float | None:
        """When it first gave 0.9 of the best, as a mean over MEAN_S; None: never."""
        return next((at for at, rate in self.dynamic.rates if rate >= 0.9 * self.best.tokens_per_s), None)

    @property
    def moves_a_minute(self) -> float:
        """How often it moved after its time to get there."""
        return moves_a_minute(self.dynamic.caps, THERE_S)

    def as_dict(self) -> dict[str, Any]:
        figures = {"share": self.share, "there_s": self.there_s, "moves_a_minute": self.moves_a_minute}
        return {**asdict(self), **figures}


def moves_a_minute(caps: Sequence[tuple[float, int]], since: float) -> float:
    """Changes of the cap after a second, a minute."""
    late = [one for one in caps if one[0] >= since]
    if len(late) < 2:
        return 0.0
    moves = sum(before[1] != after[1] for before, after in pairwise(late))
    return 60 * moves / (late[-1][0] - late[0][0])


def measure(quick: bool) -> Found:
    """Each fixed cap, then the dynamic one."""
    progress = MeasurementProgress(len(CAPS) + 1)
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    with Testbed(progress.tick, Parties()) as testbed:
        fixed = [_trace(testbed, progress, cap, QUICK_FIXED_S if quick else FIXED_S, WARM_S) for cap in CAPS]
        dynamic = _trace(testbed, progress, None, QUICK_DYNAMIC_S if quick else DYNAMIC_S, THERE_S)
    return Found(began, fixed, dynamic)


def _trace(testbed: Testbed, progress: MeasurementProgress, cap: int | None, seconds: float, warm_s: float) -> Trace:
    """One node, started, loaded for so long, and gone. What counts begins after `warm_s`."""
    progress.begin("dynamic cap" if cap is None else f"cap {cap}")
    trace = Trace(cap, machine.load())
    variables = {
        "NODE_TYPE": "local", "UPSTREAM_MODEL": MODEL, "API_URL": None, "API_KEY": None,
        "LOCAL_COMMAND": ROOT / "local.sh", "LOCAL_PARALLEL": SLOTS, "MAX_PROCESS_NUM": CLIENTS, "FIXED_CAP": cap,
    }  # fmt: skip
    with testbed.model() as (model, clients):
        node = testbed.node(NODE, model, variables, None if cap is None else FIXED_COMMAND)
        with node, Caps(node.wait_ready(READY_S), trace):
            start = time.monotonic()
            samples = clients.run_for(seconds, CLIENTS, progress.tick, max_tokens=TOKENS)
    fill(trace, samples, start, warm_s, seconds)
    progress.end(f"{trace.tokens_per_s:.1f} tokens/s")
    return trace


class Caps(threading.Thread):
    """Reads a node's cap off its metrics every second until the end of its `with`."""

    def __init__(self, node: Node, trace: Trace) -> None:
        super().__init__(daemon=True)
        self._node, self._trace = node, trace
        self._over = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(1):
            self._trace.caps.append((time.monotonic() - began, int(self._node.metrics()["workernode_cap"])))

    def __enter__(self) -> Caps:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def fill(trace: Trace, samples: Sequence[Sample], start: float, warm_s: float, seconds: float) -> None:
    """The trace's figures, from the answers that it gave. A chunk is a token."""
    trace.tokens_per_s = chunks_in(samples, start + warm_s, start + seconds) / (seconds - warm_s)
    if samples:
        trace.first_ms = first_ms(samples)
    trace.firsts = sorted((one.chunks[0] - start, one.chunks[0] - one.asked) for one in samples)
    for second in range(MEAN_S, int(seconds) + 1):
        trace.rates.append((second, chunks_in(samples, start + second - MEAN_S, start + second) / MEAN_S))


def table(found: Found) -> str:
    """What was found, in Markdown."""
    rows = [
        [
            "dynamic" if one.cap is None else str(one.cap),
            f"{one.tokens_per_s:.1f}",
            f"{one.tokens_per_s / found.best.tokens_per_s:.2f}",
            "none" if one.first_ms is None else f"{one.first_ms:.0f}",
            f"{one.load:.1f}",
        ]
        for one in [*found.fixed, found.dynamic]
    ]
    there = "never" if found.there_s is None else f"after {found.there_s:.0f} s"
    return markdown(["cap", "tokens/s", "of the best", "first token, ms (median)", "load before"], rows) + (
        f"\nThe dynamic cap gave 0.9 of the best fixed one's tokens per second {there} "
        f"and moved {found.moves_a_minute:.1f} times a minute after {THERE_S:.0f} s.\n"
    )


def draw(found: Found, path: Path) -> None:
    """Cap, tokens per second and first-token time of the dynamic cap over time, the fixed caps beside them."""
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    axes[0].step(*zip(*found.dynamic.caps, strict=True), where="post", color="#1f6feb")
    axes[0].set_ylabel("cap")
    axes[1].plot(*zip(*found.dynamic.rates, strict=True), color="#1f6feb", label="dynamic")
    for number, one in enumerate(found.fixed):
        axes[1].axhline(one.tokens_per_s, linestyle=":", color=f"C{number + 1}", label=f"cap {one.cap}")
    axes[1].set_ylabel(f"tokens a second\n(mean of {MEAN_S} s)")
    axes[1].legend(fontsize=8, ncols=3)
    axes[2].plot(*zip(*found.dynamic.firsts, strict=True), ".", color="#1f6feb")
    axes[2].set_ylabel("first token after, s")
    axes[2].set_xlabel("seconds since the node was ready")
    for axis in axes:
        axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
