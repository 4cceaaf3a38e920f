"""Reports failures that need a person (spec 1.3): as Kubernetes Events, or in the log. Imports kubernetes.

Each report is a new Event, because the operator acts on new objects only. A report can be lost there without a sign, so
it is repeated after a minute, and then every quarter of an hour while the failure lasts. No caller waits here, and no
error here reaches a caller.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from workernode.redaction import hide_secrets
from workernode.settings import Settings

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
FIRST_REPEAT, LATER_REPEATS = 60.0, 900.0  # seconds (spec 4)
CONNECT_TIME, READ_TIME = 3.0, 5.0  # seconds for one POST
TRIES = 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0  # seconds between tries
# The operator shows the whole message: more is no help.
LONGEST_MESSAGE = 1024  # characters
# Reports that wait to be sent; more than ever come at once. Further ones go to the log.
MOST_WAITING = 64
# A configuration error is reported before the node exits: it waits no longer for that.
LAST_REPORT_TIME = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Report:
    """A failure that a person must know of."""

    reason: str  # one of spec 1.3
    message: str  # what happened, where, what to do; no secret in it


class Unreportable(Exception):
    """No Event can be made, and trying again does not help; the text says why, and what to do."""


@dataclass(frozen=True)
class Cluster:
    """The AIModel that this node serves, and the way to its API server as every pod has it."""

    aimodel_name: str | None
    namespace: str = "default"
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    service_account: str = SERVICE_ACCOUNT  # the folder of `token` and `ca.crt`; read anew for every Event

    def post(self, report: Report) -> None:
        """Create the Event. Takes at most CONNECT_TIME + READ_TIME, and the import once.

        Raises:
            Unreportable: not in a cluster, no library, no rights.
            Exception: the API server did not answer, or answered with an error; trying again may help.
        """
        if not self.aimodel_name:
            raise Unreportable("AIMODEL_NAME is not set")
        # Before the import: it costs half a second and 30 MB, in vain where there is no cluster.
        if not self.environ.get("KUBERNETES_SERVICE_HOST"):
            raise Unreportable("this is not a pod of a Kubernetes cluster (KUBERNETES_SERVICE_HOST is not set)")
        try:
            from kubernetes import client, config
            from kubernetes.config import incluster_config
        except ImportError:
            raise Unreportable("the kubernetes library is missing; install workernode[kubernetes]") from None
        settings = client.Configuration()
        settings.retries = 0  # Reporter tries again itself
        settings.proxy = None  # a proxy for upstream does not lead to the cluster
        loader: Any = incluster_config.InClusterConfigLoader
        token, authority = f"{self.service_account}/token", f"{self.service_account}/ca.crt"
        try:
            loader(token, authority, environ=self.environ).load_and_set(settings)
        except (config.ConfigException, OSError) as exc:
            raise Unreportable(f"the pod's service account cannot be used ({exc})") from None
        try:
            with client.ApiClient(settings) as api:
                client.CoreV1Api(api).create_namespaced_event(
                    self.namespace, self._event(client, report), _request_timeout=(CONNECT_TIME, READ_TIME),
                    _preload_content=False,
                )  # fmt: skip
        except client.ApiException as exc:
            if exc.status == 403:
                raise Unreportable(
                    f"the service account may not create events in namespace {self.namespace} (403); "
                    "give it a Role with create on events"
                ) from None
            raise OSError(f"the Kubernetes API answered {exc.status} {exc.reason}") from None

    def _event(self, client: Any, report: Report) -> Any:
        """Return the Event in the shape that the operator acts on. With an eventTime stricter rules would hold."""
        about = client.V1ObjectReference(kind="AIModel", name=self.aimodel_name, namespace=self.namespace)
        return client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{self.aimodel_name}-", namespace=self.namespace),
            involved_object=about, type="Warning", reason=report.reason, message=report.message[:LONGEST_MESSAGE],
        )  # fmt: skip


class Poster(Protocol):
    """Where reports go: a Cluster, or the fake of a test."""

    def post(self, report: Report) -> None:
        """Send the report. Raises as Cluster.post does."""


class Schedule:
    """When each report is due: at once, after a minute, then every quarter of an hour while its failure lasts. Pure."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Report, float]] = {}  # by key, with the moment when it is due
        self._sent: dict[str, float] = {}  # when it was sent last
        self._times: dict[str, int] = {}  # how often it was sent since the failure began

    def begin(self, now: float, key: str, report: Report) -> None:
        """A failure began. One that comes and goes is reported at most once a minute."""
        due = self._open[key][1] if key in self._open else max(now, self._sent.get(key, -FIRST_REPEAT) + FIRST_REPEAT)
        self._open[key] = (report, due)

    def end(self, key: str) -> None:
        """The failure is over."""
        self._open.pop(key, None)
        self._times.pop(key, None)

    def due(self, now: float) -> list[tuple[Report, bool]]:
        """Return the reports that are due, each with whether it was sent before since its failure began."""
        reports = []
        for key, (report, at) in self._open.items():
            if at <= now:
                times = self._times.get(key, 0)
                self._open[key] = (report, now + (LATER_REPEATS if times else FIRST_REPEAT))
                self._times[key], self._sent[key] = times + 1, now
                reports.append((report, times > 0))
        return reports

    def next_due(self) -> float | None:
        """Return when `due` has something to return, or None."""
        return min((at for _, at in self._open.values()), default=None)


class Reporter:
    """Sends reports on a thread of its own, which starts with the first report. Called by the main thread."""

    def __init__(
        self, settings: Settings, poster: Poster | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without a report.

        Args:
            poster: where reports go; the pod's own cluster without it.
            clock: monotonic seconds.
        """
        self._poster = poster or Cluster(settings.aimodel_name, settings.aimodel_namespace)
        self._secrets = settings.secrets
        self._clock = clock
        self._queue: queue.Queue[tuple[str, Report | None] | None] = queue.Queue(MOST_WAITING)
        self._schedule = Schedule()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._logged_cause = ""  # why no Event could be made: logged once

    def begin(self, key: str, reason: str, message: str) -> None:
        """A failure began: report it now, and again while it lasts. A second call replaces the message.

        Args:
            key: names the failure within this node.
            reason: one of spec 1.3.
            message: what happened, where, what to do; secrets in it are hidden.
        """
        self._put(key, Report(reason, hide_secrets(message, self._secrets)))

    def end(self, key: str) -> None:
        """The failure is over."""
        if self._thread is not None:
            self._put(key, None)

    def close(self, timeout: float) -> None:
        """Send what still waits, and stop. Waits no longer than `timeout` seconds."""
        self._closing.set()
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _put(self, key: str, report: Report | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="report", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((key, report))
        except queue.Full:
            if report is not None:
                _to_log(report)

    def _run(self) -> None:
        """The thread: take in what began and ended, send what is due."""
        while True:
            due = self._schedule.next_due()
            try:
                item = self._queue.get(timeout=None if due is None else max(0.0, due - self._clock()))
            except queue.Empty:
                pass
            else:
                if item is None:
                    return
                key, report = item
                if report is None:
                    self._schedule.end(key)
                else:
                    self._schedule.begin(self._clock(), key, report)
            for report, again in self._schedule.due(self._clock()):
                self._send(report, again)

    def _send(self, report: Report, again: bool) -> None:
        """Make the Event; where that fails, the log has the report."""
        if not again:
            _to_log(report)
        try:
            self._attempt(report)
        except Exception as exc:  # the edge of the thread
            why = str(exc) if isinstance(exc, Unreportable) else f"the Kubernetes API cannot be asked ({_named(exc)})"
            cause = why if isinstance(exc, Unreportable) else type(exc).__name__
            if cause != self._logged_cause:
                self._logged_cause = cause
                log.warning("no Kubernetes Event can be made: %s; the log has the reports", why,
                            extra={"event": "unreportable", "why": why})  # fmt: skip
            if again:
                _to_log(report)
        else:
            self._logged_cause = ""
            log.info("reported to Kubernetes: %s", report.reason, extra={"event": "reported", "reason": report.reason})

    def _attempt(self, report: Report) -> None:
        """A few tries, without a pause once the node stops."""

        def pause(seconds: float) -> None:
            self._closing.wait(seconds)

        Retrying(
            retry=retry_if_exception(lambda exc: not isinstance(exc, Unreportable)), reraise=True,
            stop=stop_after_attempt(TRIES), sleep=pause,
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        )(self._poster.post, report)  # fmt: skip


def report_once(poster: Poster, reason: str, message: str, time_limit: float = LAST_REPORT_TIME) -> bool:
    """Send a report before the node exits, and return whether an Event was made.

    For a configuration of which no Reporter can be made. The caller has logged the failure already.

    Args:
        poster: where it goes.
        reason: one of spec 1.3.
        message: what happened, where, what to do; no secret in it.
        time_limit: seconds; it waits no longer.
    """
    made = threading.Event()

    def post() -> None:
        try:
            poster.post(Report(reason, message))
            made.set()
        except Exception as exc:  # the edge of the thread
            why = _named(exc)
            log.warning("no Kubernetes Event can be made: %s", why, extra={"event": "unreportable", "why": why})

    thread = threading.Thread(target=post, name="last-report", daemon=True)
    thread.start()
    thread.join(time_limit)
    return made.is_set()


def _named(exc: Exception) -> str:
    return str(exc) if isinstance(exc, Unreportable) else f"{type(exc).__name__}: {exc}"[:300]


def _to_log(report: Report) -> None:
    log.error("%s: %s", report.reason, report.message, extra={"event": "report", "reason": report.reason})
