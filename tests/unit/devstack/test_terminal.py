"""The progress of a download."""

from __future__ import annotations

import io

from devstack.terminal import DownloadProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_its_line_on_a_terminal() -> None:
    stream = Terminal()
    progress = DownloadProgress("Pulsar", 245, stream)
    progress.show(1_000_000)
    progress.show(2_000_000)
    progress.end()
    assert stream.getvalue() == "\rPulsar: 1 of about 245 MB\x1b[K\rPulsar: 2 of about 245 MB\x1b[K\n"


def test_progress_is_a_line_every_few_seconds_on_other_streams() -> None:
    stream = io.StringIO()
    now = 0.0
    progress = DownloadProgress("Pulsar", 245, stream, clock=lambda: now)
    for second in range(12):
        now = float(second)
        progress.show(second * 1_000_000)
    progress.end()
    assert stream.getvalue().splitlines() == [
        "Pulsar: about 245 MB, the download begins",
        "Pulsar: 5 of about 245 MB",
        "Pulsar: 10 of about 245 MB",
    ]
