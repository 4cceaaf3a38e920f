"""Finding, fetching and starting Pulsar, as far as it goes without one: what is found, what is said when it is not."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from devstack import broker as room
from devstack import distribution
from devstack.broker import Broker, free_port, main
from devstack.distribution import find_or_get, installed, missing_programs
from devstack.terminal import Progress, StackError

JAVA_17 = 'echo \'openjdk version "17.0.15" 2025-04-15\' >&2'
# What the real goal does, as far as we see it: it leaves the tarball in the repository that it was told to use.
MAVEN_FETCHES = """
for a in "$@"; do case "$a" in -Dmaven.repo.local=*) repo="${a#*=}";; esac; done
mkdir -p "$repo/$ARTIFACT_DIR" && cp "$TARBALL" "$repo/$ARTIFACT_DIR/"
"""

Program = Callable[[str, str], None]


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine where nothing is installed but a shell, tar and the like."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "tar", "gzip", "mkdir", "cp", "sleep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "home").mkdir()
    return {"PATH": str(programs), "HOME": str(tmp_path / "home")}


@pytest.fixture
def program(machine: dict[str, str]) -> Program:
    """Puts a shell script on the machine's PATH."""

    def put(name: str, script: str) -> None:
        path = Path(machine["PATH"], name)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


def make_pulsar(home: Path) -> Path:
    for name in ("bin/pulsar", "conf/standalone.conf", "lib/org.apache.pulsar-pulsar-broker-4.0.8.jar"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("brokerServicePort=6650\nwebServicePort=8080\n")
    return home


def make_tarball(folder: Path) -> Path:
    home = make_pulsar(folder / distribution.HOME_NAME)
    path = folder / distribution.TARBALL
    with tarfile.open(path, "w:gz") as tarball:
        tarball.add(home, home.name)
    return path


def quiet() -> Progress:
    return Progress("Pulsar", 245, io.StringIO())


# Finding.


def test_pulsar_home_comes_first(machine: dict[str, str], tmp_path: Path) -> None:
    make_pulsar(tmp_path / "home" / "apache-pulsar-4.0.8")
    given = make_pulsar(tmp_path / "given")
    assert find_or_get(quiet(), {**machine, "PULSAR_HOME": str(given)}) == given


def test_a_pulsar_home_without_a_pulsar_is_told(machine: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"PULSAR_HOME is .*, but there is no Pulsar in it"):
        find_or_get(quiet(), {**machine, "PULSAR_HOME": str(tmp_path)})


def test_of_several_in_the_home_folder_the_newest_whole_one_is_taken(machine: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    for version in ("4.0.8", "4.0.10", "3.9.9"):
        make_pulsar(home / f"apache-pulsar-{version}")
    (home / "apache-pulsar-5.0.0").mkdir()  # half unpacked
    (home / "apache-pulsar-9.0.0-bin.tar.gz").touch()
    assert installed(machine) == home / "apache-pulsar-4.0.10"


def test_what_is_in_the_cache_does_not_count_as_installed_but_is_used(machine: dict[str, str], tmp_path: Path) -> None:
    cached = make_pulsar(tmp_path / "cache" / "workernode" / distribution.HOME_NAME)
    environ = {**machine, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert installed(environ) is None
    assert find_or_get(quiet(), environ) == cached


# What is missing.


@pytest.mark.parametrize(
    ("java", "said"),
    [
        (None, "there is no java on PATH"),
        ('echo \'openjdk version "11.0.2" 2019-01-15\' >&2', "is Java 11."),
        ('echo \'java version "1.8.0_291"\' >&2', "is Java 8."),
        ("echo 'The operation couldn’t be completed. Unable to locate a Java Runtime.' >&2; exit 1", "is not one."),
    ],
    ids=["none", "11", "8", "macOS's stub"],
)
def test_a_java_that_is_missing_or_too_old_is_told(
    machine: dict[str, str], program: Program, java: str | None, said: str
) -> None:
    if java:
        program("java", java)
    fault = missing_programs(machine, maven=False)
    assert fault is not None
    assert "Java 17 or newer" in fault
    assert said in fault


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_a_java_that_is_new_enough_is_no_fault(machine: dict[str, str], program: Program, version: str) -> None:
    program("java", f"echo 'openjdk version \"{version}\"' >&2")
    assert missing_programs(machine, maven=False) is None


def test_java_home_goes_before_the_path(machine: dict[str, str], program: Program, tmp_path: Path) -> None:
    program("java", JAVA_17)
    assert "does not run" in str(missing_programs({**machine, "JAVA_HOME": str(tmp_path / "gone")}, maven=False))


@pytest.mark.parametrize(
    ("installer", "line"),
    [
        ("apt-get", "sudo apt install openjdk-17-jre-headless maven"),
        ("dnf", "sudo dnf install java-21-openjdk-headless maven"),
        ("brew", "brew install openjdk@21 maven"),
    ],
)
def test_what_to_install_is_told_for_this_system(
    machine: dict[str, str], program: Program, installer: str, line: str
) -> None:
    program(installer, "exit 0")
    fault = str(missing_programs(machine, maven=True))
    assert [said for said in fault.splitlines() if said.startswith("Install:")] == [f"Install: {line}"]
    assert ("JAVA_HOME" in fault) == (installer == "brew")


def test_on_an_unknown_system_all_three_are_told(machine: dict[str, str]) -> None:
    fault = str(missing_programs(machine, maven=True))
    assert fault.count("Install:") == 3
    assert "no mvn on PATH" in fault


# Fetching.


def test_maven_fetches_it_into_the_cache_and_no_tarball_stays(
    machine: dict[str, str], program: Program, tmp_path: Path
) -> None:
    program("java", JAVA_17)
    program("mvn", MAVEN_FETCHES)
    environ = {**machine, "TARBALL": str(make_tarball(tmp_path)), "ARTIFACT_DIR": str(distribution.ARTIFACT_DIR)}
    home = find_or_get(quiet(), environ)
    cache = tmp_path / "home" / ".cache" / "workernode"
    assert home == cache / distribution.HOME_NAME
    assert {path.name for path in cache.iterdir()} == {home.name, "fetch.lock", "maven.log"}


def test_a_tarball_that_maven_has_already_is_used(
    machine: dict[str, str], program: Program, tmp_path: Path
) -> None:
    program("java", JAVA_17)  # and no mvn
    repository = tmp_path / "home" / ".m2" / "repository" / distribution.ARTIFACT_DIR
    repository.mkdir(parents=True)
    tarball = shutil.copy(make_tarball(tmp_path), repository)
    digest = hashlib.sha1(Path(tarball).read_bytes(), usedforsecurity=False).hexdigest()
    Path(f"{tarball}.sha1").write_text(digest)
    assert distribution.is_pulsar(find_or_get(quiet(), machine))
    assert Path(tarball).exists()


def test_a_tarball_of_mavens_that_is_not_what_its_checksum_says_is_not_used(
    machine: dict[str, str], program: Program, tmp_path: Path
) -> None:
    program("java", JAVA_17)
    repository = tmp_path / "home" / ".m2" / "repository" / distribution.ARTIFACT_DIR
    repository.mkdir(parents=True)
    (repository / distribution.TARBALL).write_bytes(b"half of it")
    (repository / f"{distribution.TARBALL}.sha1").write_text("0" * 40)
    with pytest.raises(StackError, match="there is no mvn on PATH"):
        find_or_get(quiet(), machine)


def test_when_maven_fails_its_reason_and_its_log_are_told(machine: dict[str, str], program: Program) -> None:
    program("java", JAVA_17)
    program("mvn", "echo '[INFO] Scanning'; echo '[ERROR] Unknown host'; echo '[ERROR] more'; exit 1")
    with pytest.raises(StackError) as caught:
        find_or_get(quiet(), machine)
    assert "could not fetch Apache Pulsar 4.0.8: Unknown host\n" in str(caught.value)
    assert "maven.log" in str(caught.value)
    assert "PULSAR_HOME" in str(caught.value)


def test_a_tarball_that_is_not_whole_leaves_nothing_behind(
    machine: dict[str, str], program: Program, tmp_path: Path
) -> None:
    program("java", JAVA_17)
    program("mvn", MAVEN_FETCHES)
    tarball = make_tarball(tmp_path)
    tarball.write_bytes(tarball.read_bytes()[:-20])
    environ = {**machine, "TARBALL": str(tarball), "ARTIFACT_DIR": str(distribution.ARTIFACT_DIR)}
    with pytest.raises(StackError, match="could not be unpacked"):
        find_or_get(quiet(), environ)
    assert not list((tmp_path / "home" / ".cache" / "workernode").glob("*pulsar*"))


def test_fetching_without_java_is_told_without_a_traceback(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name in ("PULSAR_HOME", "JAVA_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name)
    for name, value in machine.items():
        monkeypatch.setenv(name, value)
    assert main(["fetch"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("Pulsar needs Java 17 or newer")
    assert "Traceback" not in told.err


# Progress.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_its_line_on_a_terminal() -> None:
    stream = Terminal()
    progress = Progress("Pulsar", 245, stream)
    progress.show(1_000_000)
    progress.show(2_000_000)
    progress.end()
    assert stream.getvalue() == "\rPulsar: 1 of about 245 MB\x1b[K\rPulsar: 2 of about 245 MB\x1b[K\n"


def test_progress_is_a_line_every_few_seconds_elsewhere() -> None:
    stream = io.StringIO()
    now = 0.0
    progress = Progress("Pulsar", 245, stream, clock=lambda: now)
    for second in range(12):
        now = float(second)
        progress.show(second * 1_000_000)
    progress.end()
    assert stream.getvalue().splitlines() == [f"Pulsar: {mb} of about 245 MB" for mb in (0, 5, 10)]


# Starting.


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(("which", "variable"), [("port", "PULSAR_PORT"), ("admin_port", "PULSAR_ADMIN_PORT")])
def test_a_taken_port_is_told_with_its_holder_and_the_variable_that_moves_it(
    tmp_path: Path, listener: int, which: str, variable: str
) -> None:
    ports = {"port": free_port(), "admin_port": free_port(), which: listener}
    home = make_pulsar(tmp_path / "pulsar")
    with pytest.raises(StackError) as caught:
        Broker(home, tmp_path / "run", port=ports["port"], admin_port=ports["admin_port"]).start()
    assert f"{listener} is taken by process {os.getpid()} (" in str(caught.value)
    assert f"set {variable} to another one" in str(caught.value)


def test_a_holder_that_the_system_does_not_tell_is_another_program(
    listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert room.holder_of(listener) == "another program"


def test_a_broker_that_does_not_start_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    home = make_pulsar(tmp_path / "pulsar")
    (home / "bin" / "pulsar").write_text("#!/bin/sh\necho 'Error: no room'\nexit 1\n")
    (home / "bin" / "pulsar").chmod(0o755)
    broker = Broker(home, tmp_path / "run", port=free_port(), admin_port=free_port())
    with pytest.raises(StackError) as caught, broker:
        pass
    assert "did not start: Error: no room" in str(caught.value)
    assert str(broker.log_path) in str(caught.value)
    assert not broker.is_alive()


def test_the_conf_of_a_run_has_each_entry_once_and_is_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "sk-canary")
    monkeypatch.setenv("PULSAR_STANDALONE_USE_ZOOKEEPER", "1")
    home = make_pulsar(tmp_path / "pulsar")
    (home / "bin" / "pulsar").write_text("#!/bin/sh\nenv\n")
    (home / "bin" / "pulsar").chmod(0o755)
    broker = Broker(home, tmp_path / "run", port=free_port(), admin_port=free_port(), conf={"tokenSecretKey": "file:///k"})
    broker.start()
    assert broker.wait(30)
    conf = tmp_path / "run" / "standalone.conf"
    entries = [line.partition("=")[0] for line in conf.read_text().splitlines() if line]
    assert len(entries) == len(set(entries))
    assert f"brokerServicePort={broker.port}\n" in conf.read_text()
    assert "tokenSecretKey=file:///k\n" in conf.read_text()
    assert conf.stat().st_mode & 0o077 == 0
    environment = broker.log_path.read_text()
    assert f"PULSAR_STANDALONE_CONF={conf}\n" in environment
    assert "sk-canary" not in environment
    assert "ZOOKEEPER" not in environment


def test_stop_without_a_start_and_twice_is_legal(tmp_path: Path) -> None:
    broker = Broker(make_pulsar(tmp_path / "pulsar"), tmp_path / "run")
    broker.stop()
    broker.stop()
    broker.kill()
    assert broker.pid is None


def test_no_registry_host_stands_in_the_rooms() -> None:
    for path in (room.__file__, distribution.__file__):
        assert "https://" not in Path(path).read_text()


def test_an_unknown_command_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devstack.broker", "dance"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr
