"""What the model server reports of each fault: the reason, and what to do."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.model_server.diagnosis import CONFIGURATION, GENERAL
from supervisor.model_server.model_server import EventKind
from tests.faults.model_server_owner import COMMAND, Owner


def foreign_program(path: Path) -> str:
    """A program for another processor."""
    machine = 0xB7 if os.uname().machine == "x86_64" else 0x3E
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, machine, 1)
    path.write_bytes(head.ljust(400, b"\0"))
    path.chmod(0o755)
    return str(path)


def without_permission(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    return str(path)


@pytest.mark.parametrize(
    ("command", "environ", "reason", "text"),
    [
        pytest.param(lambda path: COMMAND, {"STANDIN_SIGNAL": "SIGILL"}, CONFIGURATION, "AVX", id="no AVX"),
        pytest.param(lambda path: COMMAND, {"STANDIN_SIGNAL": "SIGKILL"}, GENERAL, "memory", id="killed"),
        pytest.param(lambda path: COMMAND, {"STANDIN_EXIT": "137"}, GENERAL, "memory", id="killed below a shell"),
        pytest.param(lambda path: COMMAND, {"STANDIN_SIGNAL": "SIGSEGV"}, GENERAL, "crashed", id="crashed"),
        pytest.param(
            lambda path: COMMAND,
            {"STANDIN_SAY": "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9663676416",
             "STANDIN_EXIT": "1"},
            GENERAL, "LOCAL_CTX", id="out of memory",
        ),
        pytest.param(
            lambda path: COMMAND,
            {"STANDIN_SAY": "gguf_init_from_file: invalid magic characters: '<htm'", "STANDIN_EXIT": "1"},
            CONFIGURATION, "LLAMAFILE_SHA256", id="bad model file",
        ),
        pytest.param(foreign_program, {}, CONFIGURATION, "another processor", id="wrong architecture"),
        pytest.param(without_permission, {}, CONFIGURATION, "chmod +x", id="not executable"),
        pytest.param(lambda path: f"{path}.missing", {}, CONFIGURATION, "not found", id="not there"),
        pytest.param(lambda path: "no-such-program-at-all", {}, CONFIGURATION, "not found", id="not on PATH"),
        pytest.param(lambda path: f"{COMMAND} --frob", {}, CONFIGURATION, "LOCAL_EXTRA_ARGS", id="unknown argument"),
        pytest.param(lambda path: COMMAND, {"STANDIN_EXIT": "3", "STANDIN_SAY": "odd"}, GENERAL, "odd", id="unknown"),
    ],
)  # fmt: skip
def test_each_fault_is_listed_with_what_to_do(
    owners: Callable[..., Owner],
    tmp_path: Path,
    command: Callable[[Path], str],
    environ: dict[str, str],
    reason: str,
    text: str,
) -> None:
    owner = owners(environ, LOCAL_COMMAND=command(tmp_path / "model"))
    owner.start()
    owner.run_until(owner.llamafile.diagnosis, "diagnosis")
    diagnosis = owner.llamafile.diagnosis()
    assert diagnosis
    assert diagnosis.reason == reason
    assert text in diagnosis.message


def test_a_taken_port_is_named_and_waited_for(owners: Callable[..., Owner]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        owner = owners(LOCAL_PORT=str(port))
        owner.start()
        owner.run_until(owner.llamafile.diagnosis, "diagnosis")
        diagnosis = owner.llamafile.diagnosis()
        assert diagnosis
        assert diagnosis.reason == CONFIGURATION
        assert str(port) in diagnosis.message
        assert "LOCAL_PORT" in diagnosis.message
    owner.wait(EventKind.READY)


def test_a_server_that_cannot_listen_is_recognised(owners: Callable[..., Owner]) -> None:
    """It listens on another port than the one that was found free."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        owner = owners(LOCAL_COMMAND=f"{COMMAND} --port {holder.getsockname()[1]}")
        owner.start()
        owner.run_until(owner.llamafile.diagnosis, "diagnosis")
        diagnosis = owner.llamafile.diagnosis()
        assert diagnosis
        assert "LOCAL_PORT" in diagnosis.message
