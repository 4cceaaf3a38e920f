"""LiteLLM's proxy, to compare with: two workers, the same upstream and load, a virtual environment of its own.

It does what the node does not: keys and budgets for users, many providers, caches, a page to manage it. It has no
broker, so it keeps no task that waits, stores no billing record before a task counts as done, and a client whose
connection breaks gets no answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import BenchmarkError, Sample, answer_ms, per_s
from benchmarks.load import Direct
from benchmarks.testbed import LITELLM, Nodes, Peak, Testbed
from benchmarks.upstream import MODEL, Answering
from devstack.ports import HOST, free_port

PACKAGE = "litellm[proxy]"
WORKERS = 2
INSTALLED_S, STARTED_S = 600.0, 180.0
LATENCY_S = 0.02  # of upstream, for the time that is added
SLOWER = 10  # so many times fewer tasks than the node gets in the same scenario


def find() -> tuple[Path | None, str]:
    """Return LiteLLM's command, which is installed if it is missing; or None and why that is not possible."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workernode-benchmarks" / "litellm"
    command = cache / "bin" / "litellm"
    if command.is_file():
        return command, ""
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(cache)],
        [str(cache / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input", PACKAGE],
    )
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=INSTALLED_S)
        except (OSError, subprocess.SubprocessError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            return None, f"{PACKAGE} could not be installed: {lines[-1] if lines else type(error).__name__}"
    return command, ""


@contextlib.contextmanager
def proxy(testbed: Testbed) -> Iterator[tuple[Nodes, int]]:
    """Run the proxy; gives its processes and its port."""
    assert testbed.parties.litellm is not None
    port = free_port()
    params = {"model": f"openai/{MODEL}", "api_base": testbed.upstream.api_url, "api_key": "sk-benchmark"}
    config = testbed.folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": params}]}))  # JSON is YAML
    command = [testbed.parties.litellm, "--config", config, "--host", HOST, "--port", port, "--num_workers", WORKERS]
    running = Nodes()
    about = {
        "PYTHONPATH": None, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it serves this machine only, without keys
    }  # fmt: skip
    running.nodes.append(testbed.node(LITELLM, "litellm", about, [str(word) for word in command]))
    try:
        yield running, port
    finally:
        running.close()


def measure(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    """Measure answers a second, the time of a single answer, memory, and the start. The size is that of the node."""
    if target != LITELLM:
        return _measure_node(testbed, target, size)
    testbed.upstream.answer(Answering())
    began = time.monotonic()
    with proxy(testbed) as (running, port):
        clients = Direct(port)
        _wait_answer(running, clients)
        start_s = time.monotonic() - began
        clients.run(size // SLOWER, 64, False, testbed.tick)
        with Peak(running) as peak:
            rate = per_s(clients.run(size // SLOWER, 64, False, testbed.tick))
        testbed.upstream.answer(Answering(latency_s=LATENCY_S))
        return rate, added_ms(clients.run(size // SLOWER // 2, 1, False, testbed.tick)), peak.mb, start_s


def _measure_node(testbed: Testbed, target: str, size: int) -> tuple[float, ...]:
    testbed.upstream.answer(Answering())
    began = time.monotonic()
    with testbed.run(target) as run:
        run.load(1, 1)
        start_s = time.monotonic() - began
        run.load(size // 4, 64)
        with Peak(run) as peak:
            rate = per_s(run.load(size, 64))
        testbed.upstream.answer(Answering(latency_s=LATENCY_S))
        return rate, added_ms(run.load(size // SLOWER // 2, 1)), peak.mb, start_s


def added_ms(samples: Sequence[Sample]) -> float:
    """Return the milliseconds that the median answer takes longer than upstream."""
    return answer_ms(samples) - 1000 * LATENCY_S


def _wait_answer(running: Nodes, clients: Direct) -> None:
    """Wait until the proxy has answered once."""
    end = time.monotonic() + STARTED_S
    while True:
        try:
            clients.run(1, 1, False, lambda _answers: None)
            return
        except (BenchmarkError, OSError, http.client.HTTPException):
            if time.monotonic() > end or not running.nodes[0].running:
                raise BenchmarkError("LiteLLM's proxy did not start; its log is in the file of the nodes") from None
            time.sleep(0.1)
