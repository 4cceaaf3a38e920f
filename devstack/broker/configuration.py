"""The configuration of a standalone Pulsar for development: its conf file, its environment, its memory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from devstack.ports import HOST

# The heap is bounded (issue 3); direct memory holds the caches of broker and bookie.
MEMORY = "-Xms128m -Xmx512m -XX:MaxDirectMemorySize=384m"
# The broker is ready in two thirds of the time and uses half the CPU of the default. The box also runs node and tests.
QUICK_START = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# What differs from Pulsar's own conf/standalone.conf.
CONF = {
    "bindAddress": HOST,
    "advertisedAddress": HOST,
    "listeningInterface": "lo0" if sys.platform == "darwin" else "lo",  # the bookie would listen on all interfaces
    "allowEphemeralPorts": "true",  # without it standalone ignores --bookkeeper-port
    "webSocketServiceEnabled": "false",
    "systemTopicEnabled": "false",
    "topicLevelPoliciesEnabled": "false",
    "acknowledgmentAtBatchIndexLevelEnabled": "true",  # acked messages of a batch are not delivered again with the rest
}
# bin/pulsar and the JVM get these only: no key of the node's, no PULSAR_... of the user's that changes the broker.
PASSED_ON = ("PATH", "HOME", "JAVA_HOME", "LANG", "LC_ALL", "TMPDIR")


def prepare(home: Path, run_dir: Path, entries: Mapping[str, str]) -> dict[str, str]:
    """Write the conf file of a run, and return the environment for bin/pulsar.

    Args:
        home: the Pulsar distribution.
        run_dir: where the run keeps its files; made if it is missing.
        entries: lines of standalone.conf to add or change, besides CONF.
    """
    temporary = run_dir / "tmp"  # native libraries are unpacked there; a killed broker leaves them
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    conf = run_dir / "standalone.conf"
    conf.touch(mode=0o600)  # may hold a token
    conf.write_text(with_entries((home / "conf" / "standalone.conf").read_text(), {**CONF, **entries}))
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "PULSAR_STANDALONE_CONF": str(conf),
        "PULSAR_LOG_DIR": str(run_dir / "logs"),
        "PULSAR_MEM": MEMORY,
        "PULSAR_GC": QUICK_START,
        "PULSAR_GC_LOG": "-Xlog:async",  # no log of the garbage collector
        "PULSAR_EXTRA_OPTS": f"-Djava.io.tmpdir={temporary} -Dpulsar.allocator.exit_on_oom=true",
    }


def with_entries(conf: str, entries: Mapping[str, str]) -> str:
    """Return the text of a conf file with these entries instead of its own."""
    kept = [line for line in conf.splitlines() if line.partition("=")[0].strip() not in entries]
    return "\n".join([*kept, "", *(f"{name}={value}" for name, value in entries.items()), ""])
