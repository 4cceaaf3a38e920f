"""Finds Apache Pulsar and a Java for it on this machine, and fetches Pulsar through Maven if there is none (spec 8)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devstack.terminal import DownloadProgress, StackError

VERSION = "4.0.8"
HOME_NAME = f"apache-pulsar-{VERSION}"
ARTIFACT = f"org.apache.pulsar:pulsar-server-distribution:{VERSION}:tar.gz:bin"
ARTIFACT_DIR = Path("org", "apache", "pulsar", "pulsar-server-distribution", VERSION)
TARBALL = f"pulsar-server-distribution-{VERSION}-bin.tar.gz"
TARBALL_MB = 245  # for the progress only
# This version fetches the tarball alone; 3.1, 3.6 and 3.8 first read all poms it descends from, from other hosts too.
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"
# Milliseconds: a connection that is silent for longer is dead. Maven's own limit is half an hour.
MAVEN_SILENCE_MS = 60_000
OLDEST_JAVA = 17

# How each system installs what is missing; the first word is the program by which the system is known.
INSTALLERS = {
    "apt-get": "sudo apt install",
    "dnf": "sudo dnf install",
    "brew": "brew install",
}
PACKAGES = {
    "java": {"apt-get": "openjdk-17-jre-headless", "dnf": "java-21-openjdk-headless", "brew": "openjdk@21"},
    "maven": {"apt-get": "maven", "dnf": "maven", "brew": "maven"},
}


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder outside the checkout where Pulsar is kept from one run to the next."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home(), ".cache")
    return Path(base, "workernode")


def is_pulsar(home: Path) -> bool:
    """Return whether a complete Pulsar distribution is in this folder."""
    return (
        (home / "bin" / "pulsar").is_file()
        and (home / "conf" / "standalone.conf").is_file()
        and any((home / "lib").glob("*pulsar-broker-[0-9]*.jar"))
    )


def installed(environ: Mapping[str, str]) -> Path | None:
    """Return the Pulsar that a person installed: $PULSAR_HOME, else the newest ~/apache-pulsar-*; None without one.

    Raises:
        StackError: PULSAR_HOME is set, but holds no Pulsar.
    """
    if given := environ.get("PULSAR_HOME"):
        if not is_pulsar(Path(given)):
            raise StackError(
                f"PULSAR_HOME is {given}, but there is no Pulsar in it (bin/pulsar, conf/standalone.conf, lib).\n"
                "Set it to the folder that the Pulsar tarball unpacks to, or unset it."
            )
        return Path(given)
    found = [home for home in Path(environ.get("HOME") or Path.home()).glob("apache-pulsar-*") if is_pulsar(home)]
    return max(found, key=_version_of, default=None)


def find_or_get(progress: DownloadProgress | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the home of a Pulsar: an installed one, else the one in the cache, which Maven fetches if it is missing.

    Raises:
        StackError: there is none and it cannot be fetched. The text says why and what to do.
    """
    if home := installed(environ):
        return home
    cache = cache_dir(environ)
    home = cache / HOME_NAME
    if not is_pulsar(home):
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "fetch.lock"):
            if not is_pulsar(home):  # another process may have fetched it while this one waited
                _fetch(cache, progress or DownloadProgress("Apache Pulsar", TARBALL_MB), environ)
    return home


def missing_programs(environ: Mapping[str, str], *, maven: bool) -> str | None:
    """Return what Pulsar needs and this machine lacks, and how to install it; None when nothing is missing.

    Args:
        maven: whether Pulsar is still to be fetched.
    """
    faults, packages = [], []
    if fault := _java_fault(environ):
        faults.append(fault)
        packages.append("java")
    if maven and not shutil.which("mvn", path=environ.get("PATH")):
        faults.append("Pulsar is fetched through Maven, and there is no mvn on PATH.")
        packages.append("maven")
    return "\n".join([*faults, *_how_to_install(packages, environ)]) if faults else None


def java_of(environ: Mapping[str, str]) -> str | None:
    """Return the java that bin/pulsar will run: $JAVA_HOME's, else the one on PATH."""
    if java_home := environ.get("JAVA_HOME"):
        return str(Path(java_home, "bin", "java"))
    return shutil.which("java", path=environ.get("PATH"))


def _java_fault(environ: Mapping[str, str]) -> str | None:
    wanted = f"Pulsar needs Java {OLDEST_JAVA} or newer"
    java = java_of(environ)
    if java is None:
        return f"{wanted}, and there is no java on PATH."
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{wanted}, and {java} does not run: {error}."
    version = re.search(r'version "(?:1\.)?(\d+)', output)
    if version is None:  # macOS has a /usr/bin/java that only prints that Java is missing
        return f"{wanted}, and {java} is not one."
    if int(version[1]) < OLDEST_JAVA:
        return f"{wanted}; {java} is Java {version[1]}."
    return None


def _how_to_install(packages: list[str], environ: Mapping[str, str]) -> list[str]:
    here = [name for name in INSTALLERS if shutil.which(name, path=environ.get("PATH"))] or list(INSTALLERS)
    lines = [f"Install: {INSTALLERS[name]} {' '.join(PACKAGES[p][name] for p in packages)}" for name in here]
    if "java" in packages and "brew" in here:
        lines.append('With brew also: export JAVA_HOME="$(brew --prefix openjdk@21)/libexec/openjdk.jdk/Contents/Home"')
    return lines


def _version_of(home: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", home.name)]


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock between processes, so that two that start together do not both fetch 245 MB."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process is fetching Apache Pulsar; waiting for it.", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, progress: DownloadProgress, environ: Mapping[str, str]) -> None:
    tarball = _maven_has(environ)
    if fault := missing_programs(environ, maven=tarball is None):
        raise StackError(fault)
    if tarball:
        _unpack(tarball, cache)
        return
    # A Maven repository of our own, dropped afterwards: the tarball is not kept beside what was unpacked from it.
    repository = cache / "maven"
    _download(repository, cache, progress, environ)
    _unpack(repository / ARTIFACT_DIR / TARBALL, cache)
    shutil.rmtree(repository, ignore_errors=True)


def _maven_has(environ: Mapping[str, str]) -> Path | None:
    """Return the tarball in the user's own Maven repository, if it is there and its checksum is right."""
    tarball = Path(environ.get("HOME") or Path.home(), ".m2", "repository") / ARTIFACT_DIR / TARBALL
    checksum = tarball.with_name(f"{TARBALL}.sha1")
    if not (tarball.is_file() and checksum.is_file()):
        return None
    digest = hashlib.sha1(usedforsecurity=False)  # the checksum that Maven keeps
    with tarball.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return tarball if checksum.read_text().split()[:1] == [digest.hexdigest()] else None


def _download(repository: Path, cache: Path, progress: DownloadProgress, environ: Mapping[str, str]) -> None:
    command = [
        "mvn", "--batch-mode", "--strict-checksums", f"-Dmaven.repo.local={repository}",
        f"-Daether.connector.requestTimeout={MAVEN_SILENCE_MS}", f"-Dmaven.wagon.rto={MAVEN_SILENCE_MS}",
        MAVEN_GOAL, f"-Dartifact={ARTIFACT}", "-Dtransitive=false",
    ]  # fmt: skip
    log = cache / "maven.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=cache, env=dict(environ), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                progress.show(_largest(repository / ARTIFACT_DIR))
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:  # Ctrl-C as well
            process.terminate()
            process.wait()
            progress.end()
    if process.returncode != 0:
        raise StackError(_why_not(log))


def _largest(folder: Path) -> int:
    """Return the size of the largest file there: the tarball, whatever name Maven gives it while it grows."""
    try:
        return max((file.stat().st_size for file in folder.iterdir()), default=0)
    except FileNotFoundError:  # not there yet, or just renamed
        return 0


def _why_not(log: Path) -> str:
    errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("[ERROR]")]
    reason = errors[0].removeprefix("[ERROR] ") if errors else "it gave no reason"
    return (
        f"Maven could not fetch Apache Pulsar {VERSION}: {reason[:400]}\n"
        f"Its output is in {log}. Usually the cause is the network, a proxy or a mirror in ~/.m2/settings.xml.\n"
        f"Without a network: unpack Pulsar {VERSION} by hand and set PULSAR_HOME to its folder."
    )


def _unpack(tarball: Path, cache: Path) -> None:
    """Put the distribution into the cache, whole or not at all: it is renamed into place when it is complete."""
    print("Unpacking Apache Pulsar.", file=sys.stderr)
    place = Path(tempfile.mkdtemp(prefix="unpack-", dir=cache))
    try:
        done = subprocess.run(
            ["tar", "-xzf", tarball, "-C", place], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0 or not is_pulsar(place / HOME_NAME):
            raise StackError(
                f"{tarball} could not be unpacked into {cache}: {done.stderr.strip()[:300] or 'it is not whole'}.\n"
                "Make room (it needs 300 MB) or remove that file, then run this again."
            )
        shutil.rmtree(cache / HOME_NAME, ignore_errors=True)  # an incomplete one may be there
        (place / HOME_NAME).rename(cache / HOME_NAME)
    finally:
        shutil.rmtree(place, ignore_errors=True)
