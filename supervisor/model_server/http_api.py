"""What the local model server answers over HTTP about itself: health, slots, context size, model names.

One helper thread asks, so that the owner never waits for a server that does not answer. Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import requests

from supervisor.readings import waiting_requests
from workernode.json_access import as_count, as_list, member, strings


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server reports about itself. None: it does not report it (older builds, other servers)."""

    slots: int | None = None  # requests that it works on at once (/props, else /slots)
    context: int | None = None  # tokens of one slot, prompt and answer together
    models: tuple[str, ...] = ()  # the ids of /v1/models
    aliases: tuple[str, ...] = ()  # their other names
    metrics: bool = False  # /metrics exists

    @property
    def model(self) -> str | None:
        """The name of the model that it lists first."""
        return self.models[0] if self.models else None

    def stands_for(self, name: str) -> bool:
        """Whether requests for the model `name` can be answered by this server.

        A server of one model, as llamafile is, serves whatever name a request has: it lists its file's name and does
        not compare. A server that lists several models picks by name, and must list this one.
        """
        return len(self.models) <= 1 or plain(name) in {plain(known) for known in (*self.models, *self.aliases)}


@dataclass(frozen=True, slots=True)
class Question:
    """A request to ask /health once."""

    run: int  # which start of the child is asked
    pid: int
    want_info: bool  # and for ServerInfo, if it answers 200
    want_work: bool = False  # and for Work, if it answers 200
    want_waiting: bool = False  # with Work: and for the requests that wait (/metrics)


@dataclass(frozen=True, slots=True)
class Work:
    """What the server's engine does."""

    is_busy: bool | None  # a slot processes a request; None: /slots did not answer in time
    slots: str  # changes when /slots does; "": it did not answer
    cpu_s: float  # seconds of CPU time that the child has used
    waiting: int = 0  # requests that wait for a slot


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to /health, or that there was none."""

    run: int
    status: int  # HTTP status; 0: no answer
    cpu_s: float | None = None  # seconds of CPU time that the child has used; read when the status was not 200
    info: ServerInfo | None = None
    work: Work | None = None


class HealthPoll:
    """The thread that asks. `ask` returns at once; the answer comes through `post`, from the thread."""

    def __init__(
        self,
        address: str,
        key: str,
        cpu_seconds: Callable[[int], float],
        timeout_s: float,
        post: Callable[[Health], None],
    ) -> None:
        """Start the thread.

        Args:
            address: `http://host:port` of the server.
            key: its API key.
            cpu_seconds: returns the CPU time that a process and its children have used.
            timeout_s: how long an answer may take.
            post: gets each answer.
        """
        self._address, self._key, self._timeout_s = address, key, timeout_s
        self._cpu_seconds, self._post = cpu_seconds, post
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="llamafile-health", daemon=True).start()

    def ask(self, question: Question) -> None:
        """Queue the question; they are asked one after the other."""
        self._questions.put(question)

    def _serve(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to loopback
            session.headers["Authorization"] = f"Bearer {self._key}"
            while True:
                question = self._questions.get()
                self._post(self._health(session, question))

    def _health(self, session: requests.Session, question: Question) -> Health:
        status, _ = self._get(session, "/health")
        if status != 200:
            return Health(question.run, status, cpu_s=self._cpu_seconds(question.pid))
        return Health(
            question.run,
            status,
            info=self._info(session) if question.want_info else None,
            work=self._work(session, question) if question.want_work else None,
        )

    def _work(self, session: requests.Session, question: Question) -> Work:
        status, body = self._get(session, "/slots")
        cpu_s = self._cpu_seconds(question.pid)
        if status == 0:
            return Work(None, "", cpu_s)
        waiting = waiting_requests(self._get(session, "/metrics")[1]) if question.want_waiting else 0
        return Work(is_busy(body), hashlib.sha256(body.encode()).hexdigest(), cpu_s, waiting)

    def _info(self, session: requests.Session) -> ServerInfo:
        def get(path: str) -> object:
            status, body = self._get(session, path)
            with contextlib.suppress(ValueError):
                return json.loads(body) if status == 200 else None
            return None

        has_metrics = self._get(session, "/metrics")[0] == 200
        return info_from(get("/props"), get("/slots"), get("/v1/models"), has_metrics)

    def _get(self, session: requests.Session, path: str) -> tuple[int, str]:
        """Return status and body; 0 and "" where no answer came."""
        try:
            answer = session.get(self._address + path, timeout=self._timeout_s, allow_redirects=False)
            return answer.status_code, answer.text
        except requests.RequestException:
            return 0, ""


def is_busy(slots: str) -> bool:
    """Return whether a slot processes a request, by the body of /slots; False if that is not in it."""
    try:
        return any(member(slot, "is_processing") is True for slot in as_list(json.loads(slots)))
    except ValueError:
        return False


def info_from(props: object, slots: object, models: object, has_metrics: bool) -> ServerInfo:
    """Return what the JSON of /props, /slots and /v1/models holds.

    Args:
        props, slots, models: the parsed JSON, of any shape; None: the server has no such page. The shapes are those of
            llama.cpp's tools/server/README.md; older llamafiles have parts of it.
        has_metrics: /metrics exists.
    """
    each_slot, listed = as_list(slots), as_list(member(models, "data"))
    defaults = member(props, "default_generation_settings")
    return ServerInfo(
        slots=as_count(member(props, "total_slots")) or len(each_slot) or None,
        context=as_count(member(defaults, "n_ctx")) or (as_count(member(each_slot[0], "n_ctx")) if each_slot else None),
        models=strings(member(entry, "id") for entry in listed),
        aliases=strings(alias for entry in listed for alias in as_list(member(entry, "aliases"))),
        metrics=has_metrics,
    )


def plain(name: str) -> str:
    """Return a model's name without folder and suffix: `/models/Gemma-3.Q4.gguf` and `gemma-3.q4` are the same."""
    return name.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".gguf").removesuffix(".llamafile")
