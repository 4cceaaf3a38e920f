"""A Pulsar distribution that is not one, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Program = Callable[[str, str], None]  # name and text of a shell script on the machine's PATH


def make_pulsar(home: Path) -> Path:
    for name in ("bin/pulsar", "conf/standalone.conf", "lib/org.apache.pulsar-pulsar-broker-4.0.8.jar"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("brokerServicePort=6650\nwebServicePort=8080\n")
    return home
