"""supervisor/report/reporter.py: when a failure is reported, and what happens where no Event can be made."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from supervisor.report.reporter import (
    MOST_WAITING,
    Cluster,
    Poster,
    Report,
    Reporter,
    Schedule,
    Unreportable,
    report_once,
)
from tests.support.wait import until
from workernode import settings

REPORT = Report("AuthenticationError", "the key is refused")
ENVIRON = {
    "NODE_TYPE": "remote", "MODEL_NAME": "m", "API_URL": "http://upstream.invalid/v1", "API_KEY": "sk-very-secret",
    "PULSAR_URL": "pulsar://broker.invalid", "AIMODEL_NAME": "gpt-4", "AIMODEL_NAMESPACE": "prod",
}  # fmt: skip


class Recorder(Poster):
    """Stands in for the cluster."""

    def __init__(self, *faults: Exception) -> None:
        self.posted: list[Report] = []
        self.tries = 0
        self.faults = list(faults)  # raised one after the other, the last for ever
        self.blocked = threading.Event()  # set: a post waits until it is cleared

    def post(self, report: Report) -> None:
        self.tries += 1
        if self.blocked.is_set():
            until(lambda: not self.blocked.is_set(), 30, "release")
        if self.faults:
            raise self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]
        self.posted.append(report)


def reporter(poster: Poster) -> Reporter:
    return Reporter(settings.load(ENVIRON), poster)


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.report.reporter.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("supervisor.report.reporter.LONGEST_PAUSE", 0.0)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "supervisor.report.reporter")
    return caplog


def texts(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# Schedule


def test_a_failure_is_reported_at_once_after_a_minute_and_then_every_15_minutes() -> None:
    schedule, reported = Schedule(), []
    schedule.begin(100.0, "key", REPORT)
    for now in range(100, 4000):
        reported += [(now - 100, again) for _, again in schedule.due(now)]
    assert reported == [(0, False), (60, True), (960, True), (1860, True), (2760, True), (3660, True)]


def test_a_failure_that_ended_is_not_reported_again() -> None:
    schedule = Schedule()
    schedule.begin(100.0, "key", REPORT)
    schedule.due(100.0)
    schedule.end("key")
    assert schedule.due(1000.0) == []
    assert schedule.next_due() is None


def test_a_failure_that_ends_before_it_is_reported_is_never_reported() -> None:
    schedule = Schedule()
    schedule.begin(100.0, "key", REPORT)
    schedule.end("key")
    assert schedule.due(100.0) == []


def test_a_failure_that_begins_twice_is_one_failure_with_the_newer_message() -> None:
    schedule, newer = Schedule(), Report("AuthenticationError", "still refused")
    schedule.begin(100.0, "key", REPORT)
    schedule.due(100.0)
    schedule.begin(101.0, "key", newer)
    assert schedule.due(101.0) == []
    assert schedule.due(160.0) == [(newer, True)]


def test_a_failure_that_comes_and_goes_is_reported_at_most_once_a_minute() -> None:
    schedule, reported = Schedule(), []
    for now in range(100, 400):
        if now % 2:
            schedule.begin(now, "key", REPORT)
            reported += [now for _ in schedule.due(now)]
        else:
            schedule.end("key")
    assert reported == [101, 161, 221, 281, 341]


def test_two_failures_are_reported_each_in_its_time() -> None:
    schedule, other = Schedule(), Report("GeneralError", "workers die")
    schedule.begin(100.0, "key", REPORT)
    schedule.due(100.0)
    schedule.begin(110.0, "workers", other)
    assert schedule.due(110.0) == [(other, False)]
    assert schedule.next_due() == 160.0


# Reporter


def test_a_report_goes_out_once_and_the_log_has_it_too(logged: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    sender = reporter(recorder)
    sender.begin("key", REPORT.reason, REPORT.message)
    sender.begin("key", REPORT.reason, REPORT.message)
    sender.close(30)
    assert recorder.posted == [REPORT]
    assert texts(logged, logging.ERROR) == ["AuthenticationError: the key is refused"]


def test_no_output_has_a_secret(logged: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    sender = reporter(recorder)
    sender.begin("key", "AuthenticationError", "upstream says: sk-very-secret is no key")
    sender.close(30)
    assert recorder.posted == [Report("AuthenticationError", "upstream says: *** is no key")]
    assert "sk-very-secret" not in logged.text


def test_a_passing_fault_of_the_api_server_is_tried_again() -> None:
    class Hiccup(Recorder):
        def post(self, report: Report) -> None:
            self.tries += 1
            if self.tries < 3:
                raise OSError("connection refused")
            self.posted.append(report)

    recorder = Hiccup()
    sender = reporter(recorder)
    sender.begin("key", REPORT.reason, REPORT.message)
    sender.close(30)
    assert recorder.posted == [REPORT]


def test_without_events_the_log_says_so_once_and_has_every_report(logged: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(Unreportable("AIMODEL_NAME is not set"))
    sender = reporter(recorder)
    sender.begin("key", "AuthenticationError", "one")
    sender.begin("broker", "MessageQueueConnectionError", "two")
    sender.close(30)
    assert recorder.tries == 2  # trying at once again would be in vain
    assert texts(logged, logging.ERROR) == ["AuthenticationError: one", "MessageQueueConnectionError: two"]
    (why,) = texts(logged, logging.WARNING)
    assert "AIMODEL_NAME is not set" in why


def test_a_repeat_that_makes_no_event_is_logged_again(logged: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    recorder = Recorder(Unreportable("no cluster"))
    sender = Reporter(settings.load(ENVIRON), recorder, clock=lambda: clock[0])
    sender.begin("key", REPORT.reason, REPORT.message)
    until(lambda: recorder.tries == 1, 30, "first report")
    clock[0] = 61.0
    sender.begin("other", "GeneralError", "wakes the thread")
    until(lambda: recorder.tries == 3, 30, "repeat")
    sender.close(30)
    assert texts(logged, logging.ERROR).count("AuthenticationError: the key is refused") == 2


def test_a_hanging_api_server_delays_nothing_and_excess_reports_are_logged(logged: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.blocked.set()
    sender = reporter(recorder)
    for number in range(MOST_WAITING + 10):
        sender.begin(f"key {number}", "GeneralError", f"trouble {number}")
    assert f"GeneralError: trouble {MOST_WAITING + 9}" in texts(logged, logging.ERROR)
    recorder.blocked.clear()
    sender.close(30)


def test_closing_without_a_report_and_twice_is_legal() -> None:
    sender = reporter(Recorder())
    sender.end("never began")
    sender.close(1)
    sender.close(1)


def test_closing_does_not_wait_longer_than_it_may() -> None:
    recorder = Recorder()
    recorder.blocked.set()
    sender = reporter(recorder)
    sender.begin("key", REPORT.reason, REPORT.message)
    until(lambda: recorder.tries == 1, 30, "first report")
    sender.close(0.01)
    assert recorder.posted == []
    recorder.blocked.clear()


# Before an exit


def test_the_last_report_is_sent_and_its_success_is_returned() -> None:
    recorder = Recorder()
    assert report_once(recorder, "ConfigurationError", "MODEL_NAME is missing")
    assert recorder.posted == [Report("ConfigurationError", "MODEL_NAME is missing")]
    assert not report_once(Recorder(OSError("refused")), "ConfigurationError", "MODEL_NAME is missing")


def test_the_last_report_does_not_keep_the_node_from_stopping() -> None:
    recorder = Recorder()
    recorder.blocked.set()
    assert not report_once(recorder, "ConfigurationError", "MODEL_NAME is missing", time_limit=0.01)
    recorder.blocked.clear()


# Cluster: where there is none

IN_POD = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}


def test_without_a_name_or_a_cluster_nothing_is_tried() -> None:
    with pytest.raises(Unreportable, match="AIMODEL_NAME"):
        Cluster(None, "prod", IN_POD).post(REPORT)
    with pytest.raises(Unreportable, match="KUBERNETES_SERVICE_HOST"):
        Cluster("gpt-4", "prod", {}).post(REPORT)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(Unreportable, match=r"workernode\[kubernetes\]"):
        Cluster("gpt-4", "prod", IN_POD).post(REPORT)


def test_without_a_service_account_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreportable, match="token file"):
        Cluster("gpt-4", "prod", IN_POD, str(tmp_path)).post(REPORT)


def test_importing_the_room_does_not_import_the_library() -> None:
    code = "import sys, supervisor.report; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
