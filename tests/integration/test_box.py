"""A node on an odd box: it serves, or its start fails with a text that names the cause."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.node import ROOT, Node
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream

TIMEOUT = 60
NODE = [sys.executable, str(ROOT / "WorkerNode.py")]


def has_namespaces() -> bool:
    """Whether this user may make a mount namespace of its own (root can, or Linux with user namespaces)."""
    done = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def shell(platform: Platform, upstream: FakeUpstream, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A factory: `shell(script)` starts a node from a shell that runs the script before: `$@` is the node's command."""
    upstream.models = [platform.model]
    with ExitStack() as nodes:

        def start(script: str, *, unshared: bool = False, **variables: object) -> Node:
            defaults = {
                "NODE_TYPE": "remote", "MODEL_NAME": platform.model, "API_URL": upstream.api_url, "API_KEY": API_KEY,
                "PULSAR_URL": platform.broker.url, "RES_TOPIC_NAME": platform.res_topic, "WORKER_PROCESSES": 2,
            }  # fmt: skip
            prefix = ["unshare", "-rm"] if unshared else []
            command = [*prefix, "sh", "-c", f'{script}; exec "$@"', "sh", *NODE]
            return nodes.enter_context(Node({**defaults, **variables}, tmp_path, command=command))

        yield start


def ask(platform: Platform, gateway: FakeGateway, count: int = 4) -> None:
    ids = platform.ask_many(["hi"] * count)
    gateway.wait_all(ids, TIMEOUT)
    assert [gateway.answer(id).error for id in ids] == [None] * count


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("unset HOME", id="no HOME"),
        pytest.param("export LANG=C LC_ALL=C", id="LANG=C"),
        pytest.param("exec <&-", id="closed stdin"),
        pytest.param("cd /proc", id="read-only directory"),
        pytest.param("ulimit -S -n 256", id="256 descriptors, more on demand"),
    ],
)
def test_a_node_serves(script: str, shell: Callable[..., Node], platform: Platform, gateway: FakeGateway) -> None:
    one = shell(script).wait_ready()
    ask(platform, gateway)
    assert [line for line in one.logs() if line["level"] in ("WARNING", "ERROR")] == []


def test_a_node_whose_working_directory_is_gone_serves_and_says_so(
    shell: Callable[..., Node], platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    one = shell(f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone").wait_ready()
    ask(platform, gateway)
    assert "the working directory cannot be entered" in one.wait_log("working_directory")
    assert [line for line in one.logs() if line.get("event") == "worker_died"] == []


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root reads everything")
def test_a_node_whose_working_directory_cannot_be_read_serves_and_says_so(
    shell: Callable[..., Node], platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    bare = "set -- setpriv --bounding-set=-dac_override,-dac_read_search" if os.geteuid() == 0 else "set --"
    try:
        one = shell(f'cd {folder}; chmod 000 .; {bare} "$@"').wait_ready()
        ask(platform, gateway)
        assert "the working directory cannot be entered" in one.wait_log("working_directory")
        assert [line for line in one.logs() if line.get("event") == "worker_died"] == []
    finally:
        folder.chmod(0o700)


def test_a_node_whose_log_reader_dies_serves_and_drains(
    shell: Callable[..., Node], platform: Platform, gateway: FakeGateway, tmp_path: Path
) -> None:
    pipe = tmp_path / "log"
    one = shell(f"mkfifo {pipe}; head -c 300 <{pipe} >/dev/null & exec 2>{pipe}").wait_ready()
    ask(platform, gateway, 200)
    one.sigterm()
    assert one.wait_exit() == 0


def test_with_256_descriptors_a_node_serves_and_says_that_they_are_few(
    shell: Callable[..., Node], platform: Platform, gateway: FakeGateway
) -> None:
    one = shell("ulimit -n 256", MAX_PROCESS_NUM=128).wait_ready()
    assert "a process may open 256 files and may need 356" in one.wait_log("few_files")
    ask(platform, gateway, 200)


@pytest.mark.skipif(not shutil.which("unshare") or not has_namespaces(), reason="no mount namespaces for this user")
@pytest.mark.parametrize(
    ("script", "line"),
    [
        pytest.param(
            "mount -t tmpfs -o ro tmpfs /dev/shm",
            "/dev/shm cannot be written to (Read-only file system); mount a tmpfs there", id="shared memory",
        ),
        pytest.param(
            "for d in /tmp /var/tmp; do mount --bind $d $d; mount -o remount,ro,bind $d; done; cd /proc; unset TMPDIR",
            "the folder for temporary files cannot be written to", id="temporary files",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_to_is_named_at_the_start(
    script: str, line: str, shell: Callable[..., Node]
) -> None:
    one = shell(script, unshared=True)
    assert one.wait_exit() == 78
    assert line in one.output
    assert "Traceback" not in one.output


@pytest.mark.skipif(not shutil.which("unshare") or not has_namespaces(), reason="no mount namespaces for this user")
def test_a_node_serves_with_little_shared_memory(
    shell: Callable[..., Node], platform: Platform, gateway: FakeGateway
) -> None:
    shell("mount -t tmpfs -o size=64k tmpfs /dev/shm", unshared=True).wait_ready()
    ask(platform, gateway)


def test_wrong_settings_exit_with_78_even_if_nobody_can_read_why(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&- >&-', "sh", *NODE], env={"PATH": os.environ["PATH"]}, cwd=tmp_path, check=False
    )
    assert done.returncode == 78
