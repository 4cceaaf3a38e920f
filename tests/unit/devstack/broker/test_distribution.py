"""Finding and fetching Pulsar: which one is used, and what is printed when there is none."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from devstack.broker import distribution, find_or_get, installed, missing_programs
from devstack.terminal import DownloadProgress, StackError
from tests.unit.devstack.broker.support import Program, make_pulsar

JAVA_17 = "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2"
MAVEN_FETCHES = """
for a in "$@"; do case "$a" in -Dmaven.repo.local=*) repo="${a#*=}";; esac; done
mkdir -p "$repo/$ARTIFACT_DIR" && cp "$TARBALL" "$repo/$ARTIFACT_DIR/"
"""


def make_tarball(folder: Path) -> Path:
    home = make_pulsar(folder / distribution.HOME_NAME)
    path = folder / distribution.TARBALL
    with tarfile.open(path, "w:gz") as tarball:
        tarball.add(home, home.name)
    return path


def quiet() -> DownloadProgress:
    return DownloadProgress("Pulsar", 245, io.StringIO())


def test_pulsar_home_comes_first(machine: dict[str, str], tmp_path: Path) -> None:
    make_pulsar(tmp_path / "home" / "apache-pulsar-4.0.8")
    given = make_pulsar(tmp_path / "given")
    assert find_or_get(quiet(), {**machine, "PULSAR_HOME": str(given)}) == given


def test_a_pulsar_home_without_a_pulsar_is_an_error(machine: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"PULSAR_HOME is .*, but there is no Pulsar in it"):
        find_or_get(quiet(), {**machine, "PULSAR_HOME": str(tmp_path)})


def test_the_newest_complete_pulsar_in_the_home_folder_is_taken(machine: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    for version in ("4.0.8", "4.0.10", "3.9.9"):
        make_pulsar(home / f"apache-pulsar-{version}")
    (home / "apache-pulsar-5.0.0").mkdir()  # half unpacked
    (home / "apache-pulsar-9.0.0-bin.tar.gz").touch()
    assert installed(machine) == home / "apache-pulsar-4.0.10"


def test_a_pulsar_in_the_cache_is_used_and_does_not_count_as_installed(machine: dict[str, str], tmp_path: Path) -> None:
    cached = make_pulsar(tmp_path / "cache" / "workernode" / distribution.HOME_NAME)
    environ = {**machine, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert installed(environ) is None
    assert find_or_get(quiet(), environ) == cached


@pytest.mark.parametrize(
    ("java", "expected"),
    [
        (None, "there is no java on PATH"),
        ("echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "is Java 11."),
        ("echo 'java version \"1.8.0_291\"' >&2", "is Java 8."),
        ("echo 'The operation couldn’t be completed. Unable to locate a Java Runtime.' >&2; exit 1", "is not one."),
    ],
    ids=["none", "11", "8", "macOS's stub"],
)
def test_a_missing_or_old_java_is_reported(
    machine: dict[str, str], program: Program, java: str | None, expected: str
) -> None:
    if java:
        program("java", java)
    fault = missing_programs(machine, maven=False)
    assert fault is not None
    assert "Java 17 or newer" in fault
    assert expected in fault


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_a_java_that_is_new_enough_is_accepted(machine: dict[str, str], program: Program, version: str) -> None:
    program("java", f"echo 'openjdk version \"{version}\"' >&2")
    assert missing_programs(machine, maven=False) is None


def test_java_home_comes_before_the_path(machine: dict[str, str], program: Program, tmp_path: Path) -> None:
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
def test_the_command_to_install_is_that_of_the_system(
    machine: dict[str, str], program: Program, installer: str, line: str
) -> None:
    program(installer, "exit 0")
    fault = str(missing_programs(machine, maven=True))
    assert [expected for expected in fault.splitlines() if expected.startswith("Install:")] == [f"Install: {line}"]
    assert ("JAVA_HOME" in fault) == (installer == "brew")


def test_on_an_unknown_system_the_commands_of_all_three_are_shown(machine: dict[str, str]) -> None:
    fault = str(missing_programs(machine, maven=True))
    assert fault.count("Install:") == 3
    assert "no mvn on PATH" in fault


def test_maven_fetches_pulsar_into_the_cache_and_no_tarball_stays(
    machine: dict[str, str], program: Program, tmp_path: Path
) -> None:
    program("java", JAVA_17)
    program("mvn", MAVEN_FETCHES)
    environ = {**machine, "TARBALL": str(make_tarball(tmp_path)), "ARTIFACT_DIR": str(distribution.ARTIFACT_DIR)}
    home = find_or_get(quiet(), environ)
    cache = tmp_path / "home" / ".cache" / "workernode"
    assert home == cache / distribution.HOME_NAME
    assert {path.name for path in cache.iterdir()} == {home.name, "fetch.lock", "maven.log"}


def test_a_tarball_that_maven_has_already_is_used(machine: dict[str, str], program: Program, tmp_path: Path) -> None:
    program("java", JAVA_17)  # and no mvn
    repository = tmp_path / "home" / ".m2" / "repository" / distribution.ARTIFACT_DIR
    repository.mkdir(parents=True)
    tarball = shutil.copy(make_tarball(tmp_path), repository)
    digest = hashlib.sha1(Path(tarball).read_bytes(), usedforsecurity=False).hexdigest()
    Path(f"{tarball}.sha1").write_text(digest)
    assert distribution.is_pulsar(find_or_get(quiet(), machine))
    assert Path(tarball).exists()


def test_a_tarball_with_a_wrong_checksum_is_not_used(machine: dict[str, str], program: Program, tmp_path: Path) -> None:
    program("java", JAVA_17)
    repository = tmp_path / "home" / ".m2" / "repository" / distribution.ARTIFACT_DIR
    repository.mkdir(parents=True)
    (repository / distribution.TARBALL).write_bytes(b"half of it")
    (repository / f"{distribution.TARBALL}.sha1").write_text("0" * 40)
    with pytest.raises(StackError, match="there is no mvn on PATH"):
        find_or_get(quiet(), machine)


def test_when_maven_fails_the_error_shows_its_reason_and_its_log(machine: dict[str, str], program: Program) -> None:
    program("java", JAVA_17)
    program("mvn", "echo '[INFO] Scanning'; echo '[ERROR] Unknown host'; echo '[ERROR] more'; exit 1")
    with pytest.raises(StackError) as caught:
        find_or_get(quiet(), machine)
    assert "could not fetch Apache Pulsar 4.0.8: Unknown host\n" in str(caught.value)
    assert "maven.log" in str(caught.value)
    assert "PULSAR_HOME" in str(caught.value)


def test_an_incomplete_tarball_leaves_nothing_behind(machine: dict[str, str], program: Program, tmp_path: Path) -> None:
    program("java", JAVA_17)
    program("mvn", MAVEN_FETCHES)
    tarball = make_tarball(tmp_path)
    tarball.write_bytes(tarball.read_bytes()[:-20])
    environ = {**machine, "TARBALL": str(tarball), "ARTIFACT_DIR": str(distribution.ARTIFACT_DIR)}
    with pytest.raises(StackError, match="could not be unpacked"):
        find_or_get(quiet(), environ)
    assert not list((tmp_path / "home" / ".cache" / "workernode").glob("*pulsar*"))


def test_no_registry_host_is_in_the_code() -> None:
    for path in Path(distribution.__file__).parent.glob("*.py"):
        assert "https://" not in path.read_text()
