"""`--check` without a broker: how checks run, and their findings about the broker, Kubernetes and the machine."""

from __future__ import annotations

import errno
import io
import json
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.ports import free_port
from supervisor.check import broker as check_broker
from supervisor.check import clock as check_clock
from supervisor.check import command as check
from supervisor.check import kubernetes as check_kubernetes
from supervisor.check import machine as check_machine
from supervisor.check import status as check_status
from supervisor.check import upstream as check_upstream
from supervisor.check.findings import Check, Context, Finding, Mark, run_all
from supervisor.machine import folders
from supervisor.model_server import ModelServer
from supervisor.telemetry import is_installed
from tests.support.apiserver import ApiServer
from tests.support.check import REMOTE, Api, context, marks, one_line
from workernode import settings
from workernode.settings import Address


@pytest.fixture
def api() -> Iterator[Api]:
    one = Api()
    yield one
    one.close()


# How checks run.


def test_a_check_that_hangs_is_a_fault_and_the_others_are_reported() -> None:
    released = threading.Event()

    def hangs(_: Context) -> Iterator[Finding]:
        yield Finding("first", Mark.OK, "fine")
        released.wait()

    def fine(_: Context) -> Iterator[Finding]:
        yield Finding("other", Mark.WARNING, "hm")

    short = Context(settings.load(REMOTE), time.monotonic() + 0.1)
    found = run_all([Check(("first", "second", "third"), hangs), Check(("other",), fine)], short)
    released.set()
    assert marks(found) == [
        ("first", Mark.OK), ("second", Mark.FAULT), ("third", Mark.SKIPPED), ("other", Mark.WARNING),
    ]  # fmt: skip
    assert "no answer within" in found[1].text


def test_a_check_that_raises_is_a_fault() -> None:
    def breaks(_: Context) -> Iterator[Finding]:
        yield Finding("first", Mark.OK, "fine")
        raise RuntimeError("boom")

    found = run_all([Check(("first", "second"), breaks)], context())
    assert marks(found) == [("first", Mark.OK), ("second", Mark.FAULT)]
    assert "RuntimeError: boom" in found[1].text


def test_what_depends_on_a_failed_check_is_skipped() -> None:
    def ends(_: Context) -> Iterator[Finding]:
        yield Finding("first", Mark.FAULT, "broken")

    found = run_all([Check(("first", "second"), ends)], context())
    assert marks(found) == [("first", Mark.FAULT), ("second", Mark.SKIPPED)]


# What is shown.

SOME = [
    Finding("environment", Mark.OK, "a remote node"),
    Finding("upstream: key", Mark.FAULT, "the key is refused", "set API_KEY"),
    Finding("clock", Mark.WARNING, "5 s behind", "set it"),
]


def test_the_table_has_a_line_for_each_finding_and_its_advice_below() -> None:
    lines = check.table(SOME).splitlines()
    assert lines[2:7] == [
        "ok     environment    a remote node",
        "FAULT  upstream: key  the key is refused",
        "                      → set API_KEY",
        "warn   clock          5 s behind",
        "                      → set it",
    ]
    assert lines[-1].startswith("1 fault: the node will not serve like this. 1 warning: ")


def test_json_has_the_same_findings() -> None:
    report = json.loads(check.report(SOME))
    assert report["ok"] is False
    assert report["findings"][1] == {
        "name": "upstream: key", "mark": "fault", "text": "the key is refused", "advice": "set API_KEY",
    }  # fmt: skip
    assert json.loads(check.report(SOME[:1]))["ok"] is True


@pytest.mark.parametrize(("found", "code"), [(SOME, 1), (SOME[::2], 0)])
def test_only_a_fault_makes_the_exit_code_1(
    found: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "find", lambda *_: found)
    assert check.check({}, Path("none"), False, ModelServer, is_installed) == code
    assert check.check({}, Path("none"), True, ModelServer, is_installed) == code
    assert capsys.readouterr().out.count("a remote node") == 2


def test_every_fault_of_the_environment_is_a_finding(tmp_path: Path) -> None:
    found = check.find({"NODE_TYPE": "remote", "MAX_PROCESS_NUM": "many"}, tmp_path / ".env", ModelServer, is_installed)
    assert [one.name for one in found] == ["environment"] * 5 + ["everything else"]
    assert one_line(found[0]).startswith("FAULT: MODEL_NAME is not set → it must be ")


# The broker.


def test_without_a_connection_rights_are_not_tried() -> None:
    found = run_all(check_broker.checks(), context())
    assert marks(found) == [
        ("broker", Mark.FAULT), ("broker: tasks", Mark.SKIPPED), ("broker: records", Mark.SKIPPED),
        ("broker: claims", Mark.SKIPPED),
    ]  # fmt: skip
    assert one_line(found[0]).startswith("FAULT: no connection to Pulsar: nothing listens at 127.0.0.1:1 → ")


@pytest.mark.parametrize(
    ("reported", "shown"),
    [("Pulsar Server4.0.8", "Pulsar 4.0.8"), ("Pulsar Server 4.1", "Pulsar 4.1"), ("x-1", "x-1"), ("", "a broker")],
)
def test_the_brokers_version_is_shown_as_a_person_writes_it(reported: str, shown: str) -> None:
    assert check_broker.named(reported) == shown


# Kubernetes.


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as api_server:
        for name, value in api_server.environ.items():
            monkeypatch.setenv(name, value)
        yield api_server


def kubernetes(cluster: ApiServer, namespace: str = "prod") -> Finding:
    variables = {"AIMODEL_NAME": "m", "AIMODEL_NAMESPACE": namespace}
    (found,) = check_kubernetes.check_events(context(**variables), cluster.service_account)
    return found


def test_the_right_to_create_events_is_tried_with_a_dry_run(cluster: ApiServer) -> None:
    found = kubernetes(cluster)
    assert (found.mark, found.text) == (Mark.OK, "may report on AIModel m in namespace prod")
    assert cluster.events == []
    assert [path for _, path, _ in cluster.requests] == ["/api/v1/namespaces/prod/events?dryRun=All"]


def test_a_missing_right_is_a_fault(cluster: ApiServer) -> None:
    found = kubernetes(cluster, namespace="other")
    assert found.mark is Mark.FAULT
    assert one_line(found).endswith("give it a Role with create on events, as in deploy/kubernetes/account.yaml")


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "refuses the account's token"), (404, "no namespace prod"), (500, "answers 500")]
)
def test_other_answers_of_the_api_server(cluster: ApiServer, status: int, expected: str) -> None:
    cluster.status = status
    assert expected in kubernetes(cluster).text


def test_an_unreachable_api_server_is_a_fault(cluster: ApiServer) -> None:
    cluster.go_away()
    assert "cannot be reached: the connection failed" in kubernetes(cluster).text
    cluster.come_back()


def test_an_account_without_a_token_is_a_fault(cluster: ApiServer) -> None:
    (cluster.service_account / "token").unlink()
    assert "service account cannot be used" in kubernetes(cluster).text


def test_without_a_cluster_reports_go_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for variables in ({}, {"AIMODEL_NAME": "m"}):
        (found,) = check_kubernetes.check_events(context(**variables))
        assert (found.mark, found.text.split(",")[0]) == (Mark.OK, "reports go to the log only")


# The machine.


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


# The status address.


def status_finding(address: str, model: str = "gpt-4o") -> tuple[Finding, str]:
    known = context(STATUS_ADDR=address, MODEL_NAME=model)
    return next(check_status._check(known)), known.running_node.result(0)


def test_a_status_address_that_is_off_or_free_passes() -> None:
    assert status_finding("off")[0].text == "off: no status server"
    found, model = status_finding(f"0.0.0.0:{free_port()}")
    assert (found.mark, model) == (Mark.OK, "")


def test_a_status_address_of_another_machine_is_a_fault() -> None:
    # 192.0.2.0/24 is nobody's (RFC 5737); what answers there on some networks is no node either.
    assert status_finding("192.0.2.1:1")[0].mark is Mark.FAULT


@pytest.mark.parametrize(
    ("answer", "mark", "expected"),
    [
        ({"model": "gpt-4o", "ready": True, "why": []}, Mark.OK, "a node for gpt-4o already runs here and is ready"),
        ({"model": "gpt-4o", "ready": False, "why": ["no broker"]}, Mark.WARNING, "not ready: no broker"),
        ({"model": "other", "ready": True, "why": []}, Mark.FAULT, "a node for another model, other, listens"),
        ({"some": "thing"}, Mark.FAULT, "a program that is not a node listens"),
    ],
    ids=["ready", "not ready", "another model", "another program"],
)
def test_the_program_at_the_status_address_is_named(
    api: Api, answer: dict[str, Any], mark: Mark, expected: str
) -> None:
    api.open, api.body = True, json.dumps(answer).encode()
    found, model = status_finding(api.url.removeprefix("http://"))
    assert (found.mark, model) == (mark, answer.get("model", ""))
    assert expected in found.text


def test_addresses_of_all_interfaces_are_asked_on_loopback(api: Api) -> None:
    api.open, api.body = True, b'{"model": "m", "ready": true, "why": []}'
    found, model = check_status._listener(Address("0.0.0.0", api.server.server_address[1]), "m")  # noqa: S104
    assert (found.mark, model) == (Mark.OK, "m")


def test_the_publishers_clocks_are_known_only_while_a_node_runs() -> None:
    _, clock = check_status._check(context(STATUS_ADDR=f"127.0.0.1:{free_port()}"))
    assert (clock.name, clock.mark) == (check_status.PUBLISHERS, Mark.SKIPPED)


@pytest.mark.parametrize(
    ("metrics", "mark", "expected"),
    [
        ("workernode_clock_difference_seconds 0.0\n", Mark.OK, "no difference"),
        ("# HELP x\nworkernode_clock_difference_seconds 360.2\n", Mark.WARNING, "360 s behind this machine's clock"),
        ('workernode_clock_difference_seconds{model="m"} -61.0\n', Mark.WARNING, "61 s ahead of this machine's clock"),
        ("workernode_clock_difference_seconds many\n", Mark.SKIPPED, "does not answer with its metrics"),
        ("", Mark.SKIPPED, "does not answer with its metrics"),
    ],
)
def test_the_publishers_clocks_are_those_that_the_running_node_has_seen(
    api: Api, metrics: str, mark: Mark, expected: str
) -> None:
    api.open, api.body = True, metrics.encode()
    found = check_status._publishers_clock(Address("127.0.0.1", api.server.server_address[1]))
    assert (found.mark, expected in found.text) == (mark, True)


# The clock.


@pytest.mark.parametrize(
    ("ahead", "mark", "expected"),
    [
        (0.4, Mark.OK, "agrees with the clock of upstream"),
        (6, Mark.WARNING, "6 s behind the clock"),
        (-90, Mark.FAULT, "90 s ahead of the clock"),
    ],
)
def test_a_clock_difference_is_found(ahead: float, mark: Mark, expected: str) -> None:
    known = context()
    known.clocks += [("the API server", 0.1), ("upstream", ahead)]
    found = check_clock.clock(known)
    assert found.mark is mark
    assert expected in found.text


def test_the_date_header_of_upstream_is_compared_with_the_clock(api: Api) -> None:
    api.date = time.time() + 100
    known = context(API_URL=api.url)
    run_all(check_upstream.checks(), known)
    assert [(whose, round(ahead / 10)) for whose, ahead in known.clocks] == [("upstream", 10)]


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_an_invalid_date_header_is_ignored(date: str | None) -> None:
    known = context()
    check_clock.note_clock(known, "upstream", date, 0)
    assert known.clocks == []


@pytest.mark.parametrize(("kernel", "mark"), [(True, Mark.OK), (False, Mark.WARNING), (None, Mark.SKIPPED)])
def test_without_anybody_the_kernel_is_asked(kernel: bool | None, mark: Mark) -> None:
    assert check_clock.clock(context(), lambda: kernel).mark is mark


def test_the_kernel_answers_or_does_not() -> None:
    assert check_clock.is_synchronised() in (True, False, None)
