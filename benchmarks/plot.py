"""Measurements → a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib

from benchmarks.report import TARGETS, turns
from benchmarks.runner import Measurement
from benchmarks.scenarios import NODES
from benchmarks.testbed import BASELINE, DIRECT, GO, IN_FLIGHT, LITELLM, NODE

matplotlib.use("Agg")  # no screen is needed
from matplotlib import pyplot
from matplotlib.axes import Axes

COLOURS = {DIRECT: "#9aa5b1", BASELINE: "#d9822b", NODE: "#1f6feb", GO: "#2da44e", LITELLM: "#8250df"}
BARS = (
    ("plain", "plain tasks a second"), ("streams", "stream chunks a second"), ("memory", "memory, MB"),
    ("lab-plain", "lab: plain tasks a second"), ("lab-streams", "lab: stream chunks a second"),
    ("litellm", "plain answers a second"),
)  # fmt: skip


def draw(measured: Sequence[Measurement], path: Path) -> None:
    """Draw rates, memory, growth and nodes into one picture."""
    figure, grid = pyplot.subplots(2, 4, figsize=(16, 7.2), layout="constrained")
    axes = grid.flat
    for (scenario, title), axis in zip(BARS, axes, strict=False):
        _bars(axis, measured, scenario, title)
    _growth(axes[6], measured)
    _nodes(axes[7], measured)
    for axis in grid.flat:
        if not axis.has_data():  # it was not measured
            axis.remove()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _bars(axis: Axes, measured: Sequence[Measurement], scenario: str, title: str) -> None:
    for target in TARGETS:
        values = list(turns(measured, scenario, target, 0).values())
        if values:
            axis.bar(target, median(values), color=COLOURS[target])
            axis.plot([target] * len(values), values, "k_", markersize=10)
    axis.set_title(title, fontsize=10)


def _growth(axis: Axes, measured: Sequence[Measurement]) -> None:
    for target in (BASELINE, NODE):
        if turns(measured, "growth", target, 0):
            costs = [median(turns(measured, "growth", target, at).values()) for at in range(len(IN_FLIGHT))]
            axis.plot(IN_FLIGHT, costs, "o-", color=COLOURS[target], label=target)
    axis.set(xscale="log", xticks=IN_FLIGHT, xticklabels=IN_FLIGHT, xlabel="in flight")
    axis.set_ylim(bottom=0)
    axis.set_title("CPU a plain task, ms", fontsize=10)
    if axis.lines:
        axis.legend(fontsize=8)


def _nodes(axis: Axes, measured: Sequence[Measurement]) -> None:
    if turns(measured, "nodes", NODE, 0):
        rates = [median(turns(measured, "nodes", NODE, at).values()) for at in range(len(NODES))]
        axis.plot(NODES, rates, "o-", color=COLOURS[NODE])
        axis.plot(NODES, [rates[0] * count for count in NODES], ":", color=COLOURS[DIRECT])
    axis.set(xticks=NODES, xlabel="nodes of 16 slots")
    axis.set_ylim(bottom=0)
    axis.set_title("tasks of 200 ms a second", fontsize=10)
