"""local.sh: which model it starts, with what, and what it prints when it cannot. The llamafile is a stand-in."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
import requests

from devstack.ports import free_port
from tests.support.paths import ROOT
from tests.support.wait import until

PATIENCE = 60.0  # seconds; a bound for a broken run
# Prints its arguments, and stays until a signal where its environment asks for it.
LLAMAFILE = """#!/bin/sh
echo "pid $$"
for word in "$@"; do echo "arg $word"; done
case "$*" in *--api-key-file*) echo "key $(cat /dev/fd/9)" ;; esac
if [ -n "${STAY:-}" ]; then exec sleep 1000; fi
"""
FLAGS = ["--server", "--host", "127.0.0.1", "--port", "8082", "--parallel", "4", "--ctx-size", "16384"]


class Box:
    """A folder with local.sh in it, whose path has a space, and what is needed to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "the box"
        self.folder.mkdir()
        self.script = Path(shutil.copy2(ROOT / "local.sh", self.folder))
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}

    def llamafile(self, name: str = "model.llamafile", text: str = LLAMAFILE, mode: int = 0o755) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def start(self, cwd: Path = Path("/"), **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.script],
            cwd=cwd,
            env=self.env | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, cwd: Path = Path("/"), **variables: str) -> tuple[int, list[str], str]:
        """Exit code, the llamafile's output line by line, local.sh's output."""
        with self.start(cwd, **variables) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output.splitlines(), errors


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def arguments(output: list[str]) -> list[str]:
    return [line.removeprefix("arg ") for line in output if line.startswith("arg ")]


def test_a_llamafile_gets_the_flags_and_only_the_loopback(box: Box) -> None:
    code, output, errors = box.run(LLAMAFILE=str(box.llamafile("some model")))
    assert (code, arguments(output)) == (0, FLAGS)
    assert "Traceback" not in errors


def test_every_variable_becomes_its_flag(box: Box) -> None:
    box.llamafile()
    variables = {"LOCAL_PORT": "9999", "LOCAL_PARALLEL": "8", "LOCAL_CTX": "32768", "LOCAL_THREADS": "6"}
    _, output, _ = box.run(**variables, LOCAL_EXTRA_ARGS="-ngl 99 --alias 'my model' $HOME *")
    assert arguments(output) == [
        *("--server", "--host", "127.0.0.1", "--port", "9999", "--parallel", "8", "--ctx-size", "32768"),
        *("--threads", "6", "-ngl", "99", "--alias", "my model", "$HOME", "*"),
    ]


def test_empty_variables_are_unset(box: Box) -> None:
    box.llamafile()
    names = ("LLAMAFILE", "LLAMAFILE_URL", "LOCAL_THREADS", "LOCAL_API_KEY", "LOCAL_EXTRA_ARGS", "LOCAL_PORT")
    _, output, _ = box.run(**dict.fromkeys(names, ""))
    assert arguments(output) == FLAGS


def test_the_key_reaches_the_model_and_no_argument(box: Box) -> None:
    box.llamafile()
    _, output, errors = box.run(LOCAL_API_KEY="sk-canary")
    assert arguments(output) == [*FLAGS, "--api-key-file", "/dev/fd/9"]
    assert "key sk-canary" in output
    assert "sk-canary" not in errors


def test_the_model_replaces_the_script_so_that_signals_reach_it(box: Box) -> None:
    box.llamafile()
    with box.start(STAY="1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"pid {process.pid}\n"
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_an_ape_is_started_through_sh(box: Box, tmp_path: Path) -> None:
    # A llamafile starts so: a shell script that the kernel does not take for one. The `sh` of this test leaves a note.
    (tmp_path / "bin").mkdir()
    shell = tmp_path / "bin" / "sh"
    shell.write_text('#!/bin/bash\necho "through sh"\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    box.llamafile(text="MZqFpD='\n'\n" + LLAMAFILE)
    code, output, _ = box.run(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert code == 0
    assert output[0] == "through sh"
    assert arguments(output) == FLAGS


@pytest.mark.parametrize(
    ("make", "code", "expected"),
    [
        pytest.param(lambda box: box.folder / "nothing", 127, "there is no file {}", id="missing"),
        pytest.param(lambda box: box.llamafile(mode=0o644), 126, "{} is not executable (permission denied)", id="mode"),
        pytest.param(lambda box: box.folder, 127, "there is no file {}", id="folder"),
    ],
)
def test_a_llamafile_that_cannot_be_run_is_an_error(
    box: Box, make: Callable[[Box], Path], code: int, expected: str
) -> None:
    path = make(box)
    got, output, errors = box.run(LLAMAFILE=str(path))
    assert (got, output) == (code, [])
    assert expected.format(path) in errors


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"<!DOCTYPE html>\n<a href=x>log in</a>\n: > RUN\n", "neither a program", id="web page"),
        pytest.param(b"\n: > RUN\n", "neither a program", id="text"),
        pytest.param(b"", "neither a program", id="empty"),
        pytest.param(b"\x00\xff\x80\n: > RUN\n", "neither a program", id="rubbish"),
        pytest.param(b"GGUF\x03\x00\x00\x00\n: > RUN\n", "a model alone (GGUF)", id="model alone"),
    ],
)
def test_a_file_that_is_no_program_is_never_run(box: Box, tmp_path: Path, content: bytes, expected: str) -> None:
    """A shell would take it for a script: a download may be a page that asks for a log-in."""
    path, trace = box.llamafile(), tmp_path / "it-ran"
    path.write_bytes(content.replace(b"RUN", bytes(trace)))
    code, output, errors = box.run()
    assert (code, output) == (1, [])
    assert f"{path} is not a llamafile" in errors
    assert expected in errors
    assert not trace.exists()


def test_a_program_for_another_machine_is_an_error(box: Box) -> None:
    path = box.llamafile()
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(200))
    code, _, errors = box.run()
    assert code != 0
    assert "Exec format error" in errors


def test_with_several_llamafiles_one_must_be_named(box: Box) -> None:
    one, _ = box.llamafile("a.llamafile"), box.llamafile("b.llamafile")
    code, output, errors = box.run()
    assert (code, output) == (1, [])
    assert "Set LLAMAFILE to the one to run" in errors
    assert box.run(LLAMAFILE=str(one))[0] == 0


# Downloads.


class DownloadServer(ThreadingHTTPServer):
    """Serves `content`, with ranges; the first `cuts` answers break off in the middle; `stall` holds the rest back."""

    content = LLAMAFILE.encode() + b"#" * 100_000
    sha256 = hashlib.sha256(content).hexdigest()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), DownloadHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/models/tiny.llamafile?signature=secret"
        self.asked: list[str] = []  # the Range of each request
        self.cuts = 0
        self.ranges = True
        self.status = 200
        self.stall: threading.Event | None = None


class DownloadHandler(BaseHTTPRequestHandler):
    """Serves the download."""

    def do_GET(self) -> None:
        server = cast(DownloadServer, self.server)
        wanted = self.headers.get("Range", "")
        server.asked.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)
        self.wfile.flush()
        if server.stall:
            server.stall.wait(PATIENCE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[DownloadServer]:
    server = DownloadServer()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    if server.stall:
        server.stall.set()
    server.shutdown()
    server.server_close()


def test_a_download_is_verified_kept_and_run(box: Box, server: DownloadServer) -> None:
    variables = {"LLAMAFILE_URL": server.url, "LLAMAFILE_SHA256": server.sha256.upper()}
    code, output, errors = box.run(**variables)
    assert (code, arguments(output)) == (0, FLAGS), errors
    assert (box.folder / "tiny.llamafile").read_bytes() == server.content
    assert sorted(path.name for path in box.folder.iterdir()) == ["local.sh", "tiny.llamafile"]
    assert "secret" not in errors
    assert box.run(**variables)[0] == 0
    assert len(server.asked) == 1  # the second start finds it


def test_a_download_goes_where_llamafile_says(box: Box, server: DownloadServer, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    code, output, errors = box.run(LLAMAFILE_URL=server.url, LLAMAFILE=str(target))
    assert (code, arguments(output)) == (0, FLAGS), errors
    assert target.read_bytes() == server.content
    assert f"LLAMAFILE_SHA256 is not set; the download has the checksum {server.sha256}" in errors


def test_a_broken_download_resumes_where_it_stopped(box: Box, server: DownloadServer) -> None:
    server.cuts = 1
    variables = {"LLAMAFILE_URL": server.url, "LLAMAFILE_SHA256": server.sha256}
    code, output, errors = box.run(**variables)
    assert (code, output) == (1, [])
    assert "the download failed (curl: exit code 18" in errors
    assert not (box.folder / "tiny.llamafile").exists()
    code, output, errors = box.run(**variables)
    assert (code, arguments(output)) == (0, FLAGS), errors
    assert server.asked == ["", f"bytes={len(server.content) // 2}-"]


def test_the_download_starts_again_if_the_server_cannot_resume(box: Box, server: DownloadServer) -> None:
    server.ranges, server.cuts = False, 1
    assert box.run(LLAMAFILE_URL=server.url)[0] == 1
    code, output, errors = box.run(LLAMAFILE_URL=server.url, LLAMAFILE_SHA256=server.sha256)
    assert (code, arguments(output)) == (0, FLAGS), errors


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "too long"])
def test_a_part_of_full_length_needs_the_right_checksum(box: Box, server: DownloadServer, whole: bool) -> None:
    (box.folder / "tiny.llamafile.part").write_bytes(server.content if whole else b"x" * len(server.content))
    code, _, errors = box.run(LLAMAFILE_URL=server.url, LLAMAFILE_SHA256=server.sha256)
    assert code == 0, errors
    assert len(server.asked) == (1 if whole else 2)


def test_a_download_with_a_wrong_checksum_is_removed(box: Box, server: DownloadServer) -> None:
    code, output, errors = box.run(LLAMAFILE_URL=server.url, LLAMAFILE_SHA256="0" * 64)
    assert (code, output) == (1, [])
    assert f"the checksum is not LLAMAFILE_SHA256: the download has {server.sha256}" in errors
    assert [path.name for path in box.folder.iterdir()] == ["local.sh"]


@pytest.mark.parametrize("status", [404, 500])
def test_a_refused_download_is_an_error(box: Box, server: DownloadServer, status: int) -> None:
    server.status = status
    code, output, errors = box.run(LLAMAFILE_URL=server.url)
    assert (code, output) == (1, [])
    assert f"HTTP status {status}" in errors


def test_a_signal_stops_the_download(box: Box, server: DownloadServer) -> None:
    server.stall, server.cuts = threading.Event(), 1
    with box.start(LLAMAFILE_URL=server.url) as process:
        part = box.folder / "tiny.llamafile.part"
        until(lambda: part.exists() and part.stat().st_size, PATIENCE, "beginning of the download")
        process.terminate()
        process.communicate(timeout=PATIENCE)  # ends only when curl has ended too: it holds the other end
    assert process.returncode == 143


# The embedded model.


def test_in_the_installed_package_the_working_directory_is_looked_through(box: Box) -> None:
    package = box.folder / "site-packages" / "devstack"
    shutil.copytree(ROOT / "devstack", package, ignore=shutil.ignore_patterns("__pycache__"))
    box.script = package / "local.sh"
    found = box.folder / "found.llamafile"
    box.llamafile(found.name)
    code, output, errors = box.run(cwd=box.folder)
    assert (code, arguments(output)) == (0, FLAGS)
    assert f"starting {found}" in errors
    found.unlink()
    code, _, errors = box.run(cwd=box.folder, LOCAL_PYTHON="/bin/false", PATH=f"{box.folder}:/usr/bin:/bin")
    assert code == 1
    assert "'/bin/false' -m pip install 'workernode[local]'" in errors


def test_without_a_llamafile_the_embedded_model_is_served(box: Box) -> None:
    shutil.copytree(ROOT / "devstack", box.folder / "devstack", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    variables = {"VIRTUAL_ENV": sys.prefix, "XDG_CACHE_HOME": cache, "LOCAL_PORT": str(port), "LOCAL_API_KEY": "k"}
    with box.start(**variables) as process:
        try:
            until(lambda: status(port, "/health") == 200, PATIENCE, "model that is healthy")
            assert status(port, "/v1/models") == 401
            assert status(port, "/v1/models", "k") == 200
            process.terminate()
            assert process.wait(PATIENCE) == -signal.SIGTERM
        finally:
            process.kill()
            process.communicate()


def status(port: int, path: str, key: str = "") -> int:
    try:
        headers = {"Authorization": f"Bearer {key}"}
        return requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=PATIENCE).status_code
    except requests.ConnectionError:
        return 0


def test_without_any_model_the_error_says_how_to_get_one(box: Box, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("bash", "dirname"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program) or program)
    code, output, errors = box.run(PATH=str(tmp_path / "bin"))
    assert (code, output) == (1, [])
    assert "Set LLAMAFILE or LLAMAFILE_URL" in errors
    assert f"install -e '{box.folder}[local]'" in errors
    code, _, errors = box.run(PATH=str(tmp_path / "bin"), LLAMAFILE_URL="http://127.0.0.1:1/x")
    assert code == 127
    assert "curl is needed" in errors
