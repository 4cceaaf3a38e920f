"""What local.sh does when it downloads the llamafile, and when that breaks off, is refused, or gives another file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from tests.integration.local_sh_box import FLAGS, LLAMAFILE, PATIENCE, Box, arguments
from tests.support.wait import until


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
