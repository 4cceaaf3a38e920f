"""local.sh: which model it starts, with what, and what it prints when it cannot. The llamafile is a stand-in."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from devstack.ports import free_port
from tests.integration.local_sh_box import FLAGS, LLAMAFILE, PATIENCE, Box, arguments
from tests.support.paths import ROOT
from tests.support.wait import until


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
