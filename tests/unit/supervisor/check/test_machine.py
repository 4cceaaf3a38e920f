"""`--check`: what is found where the machine has too few open files, threads, memory, or a folder is read-only."""

from __future__ import annotations

import errno
import io
import resource
from pathlib import Path

import pytest

from supervisor.check import machine as check_machine
from supervisor.check.findings import Mark
from supervisor.machine import folders
from tests.support.check import context


def test_open_files_are_counted_for_the_slots_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 500))  # the node raises the first to the second
    few, many = (context(MAX_PROCESS_NUM=count, WORKER_PROCESSES="4") for count in ("400", "404"))
    assert check_machine.files(few).mark is Mark.OK
    assert check_machine.files(many).text == "a process with 101 slots may need 504, and may have 500"


def test_threads_are_counted_against_the_containers_limit(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/pod"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod\n")
    mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(mount)
    (group / "pids.max").write_text("max\n")
    wanted = context(MAX_PROCESS_NUM="128", WORKER_PROCESSES="4")
    assert check_machine.threads(wanted, tmp_path).mark is Mark.OK
    (group / "pids.max").write_text("200\n")
    found = check_machine.threads(wanted, tmp_path)
    assert (found.mark, found.text) == (Mark.FAULT, "up to 260 may be needed, and 200 are allowed")


def test_memory_is_shown_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "free of" in check_machine.memory(context()).text
    assert check_machine.memory(context(MEMORY_HIGH="1")).mark is Mark.WARNING
    monkeypatch.setattr(check_machine, "SUPERVISOR_BYTES", 1 << 60)
    assert check_machine.memory(context()).mark is Mark.FAULT


@pytest.mark.parametrize("folder", [None, "/dev"], ids=["temporary files", "shared memory"])
def test_a_folder_that_is_not_writable_is_a_fault(folder: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_machine.folders().mark is Mark.OK

    def read_only(dir: str | None) -> io.BytesIO:
        if dir == folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return io.BytesIO()

    monkeypatch.setattr(folders, "SHARED_MEMORY", "/dev")  # there on every system
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    found = check_machine.folders()
    assert found.mark is Mark.FAULT
    assert found.text.endswith("cannot be written to (Read-only file system)")
