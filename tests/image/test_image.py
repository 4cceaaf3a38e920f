"""The container image, built and run for real: buildah without an engine, on a base that mmdebstrap makes.

Not a part of tests/run.sh: it needs root, buildah, mmdebstrap and some minutes. `tests/image.sh` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.ports import free_port
from tests.support.fixtures import API_KEY
from tests.support.gateway import FakeGateway
from tests.support.node import Node
from tests.support.paths import ROOT
from tests.support.platform import Platform
from tests.support.upstream import FakeUpstream

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workernode" / "image"
SUITE = "bookworm"
BASE, IMAGE = "localhost/workernode-test-base", "localhost/workernode-test"
RUN = ROOT / "tests/image/run_image.sh"
# Without an engine: no isolation but a chroot, no overlay file system.
ENVIRON = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
AUTHORITIES = "/etc/ssl/certs"  # the build trusts what this machine trusts, as a company's builder does


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], env=ENVIRON, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def make_base() -> None:
    """Make the base image: Debian with Python, as the registry's base image cannot be pulled here."""
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        packages = "python3,python3-venv,python3-pip,ca-certificates"
        part = archive.with_suffix(".part.tar")
        command = ["mmdebstrap", "--variant=minbase", f"--include={packages}", SUITE, str(part)]
        subprocess.run(command, check=True)
        part.rename(archive)
    container = buildah("from", "scratch")
    buildah("add", "-q", container, str(archive), "/")
    buildah("commit", "-q", "--rm", container, BASE)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The name of an image that was built from this checkout."""
    for program in ("buildah", "mmdebstrap", "unshare"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not on PATH; Debian: apt install buildah mmdebstrap util-linux")
    if os.geteuid() != 0:
        pytest.fail("the image is built and run as root here; run tests/image.sh with sudo")
    make_base()
    buildah(
        "build", "-q", "--build-arg", f"BASE={BASE}", "--build-arg", "VERSION=1.2.3", "-f", "deploy/docker/Dockerfile",
        "--ignorefile", "deploy/docker/Dockerfile.dockerignore", "-v", f"{AUTHORITIES}:{AUTHORITIES}:ro",
        "--format", "docker", "-t", IMAGE, ".",
    )  # fmt: skip
    yield IMAGE
    buildah("rmi", "--force", IMAGE, BASE)


@pytest.fixture
def container(image: str) -> Iterator[tuple[Path, list[str]]]:
    """A mounted container of the image: the folder of its root, and the command that runs its entry point in it."""
    name = buildah("from", image)
    root = Path(buildah("mount", name))
    config = json.loads(buildah("inspect", name))["Docker"]["config"]
    run = ["unshare", "--mount", str(RUN), str(root), config["User"], config["WorkingDir"], *config["Env"]]
    yield root, [*run, "--", *config["Entrypoint"]]
    buildah("umount", name)
    buildah("rm", name)


def start(command: list[str], variables: dict[str, object], folder: Path, *arguments: str) -> Node:
    """Run the image with these variables; they are given on the command line, as engines do with `-e`."""
    at = command.index("--")
    given = [f"{name}={value}" for name, value in variables.items()]
    return Node(variables, folder, arguments, command=[*command[:at], *given, *command[at:]])


def test_the_image_has_its_version_and_no_root(container: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, command = container
    with start(command, {}, tmp_path, "--version") as run:
        assert run.wait_exit(30) == 0
        assert "1.2.3" in run.output
    packages = {path.name for path in root.glob("opt/workernode/lib/python3*/site-packages/*")}
    assert {"kubernetes", "opentelemetry"} <= packages, "nobody can install them into a read-only image"
    user = command[5]
    assert user.split(":")[0] not in ("", "0", "root")
    size = sum(file.stat().st_size for file in (root / "opt").rglob("*") if file.is_file() and not file.is_symlink())
    print(f"the image adds {size / 1e6:.0f} MB to its base")


def test_the_image_passes_its_check_answers_a_task_and_exits_with_0_on_sigterm(
    container: tuple[Path, list[str]], tmp_path: Path, platform: Platform, gateway: FakeGateway, upstream: FakeUpstream
) -> None:
    upstream.models = [platform.model]
    variables: dict[str, object] = {
        "NODE_TYPE": "remote",
        "MODEL_NAME": platform.model,
        "API_URL": upstream.api_url,
        "API_KEY": API_KEY,
        "PULSAR_URL": platform.broker.url,
        "RES_TOPIC_NAME": platform.res_topic,
        "WORKER_PROCESSES": 2,
        "STATUS_ADDR": f"127.0.0.1:{free_port()}",
    }
    _, command = container
    with start(command, variables, tmp_path, "--check", "--json") as check:
        assert check.wait_exit(120) == 0, check.tail()
    with start(command, variables, tmp_path) as node:
        node.wait_ready(60)
        assert platform.ask_and_wait("hello").error is None
        assert platform.ask_and_wait("hello", stream=True).error is None
        node.sigterm()
        assert node.wait_exit(60) == 0
        node.wait_gone()
        assert "Traceback" not in node.output


def test_wrong_settings_are_named_and_end_the_container_with_78(
    container: tuple[Path, list[str]], tmp_path: Path
) -> None:
    _, command = container
    with start(command, {"NODE_TYPE": "remote"}, tmp_path) as run:
        assert run.wait_exit(30) == 78
        assert "MODEL_NAME is not set" in run.output
