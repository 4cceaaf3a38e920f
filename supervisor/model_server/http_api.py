"""What the local model server says of itself over HTTP: health, slots, context size, model names.

Asked by one helper thread, so that nobody waits for a server that does not answer. This room decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import requests


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the server that answers. None: it does not say (older builds, other servers)."""

    slots: int | None = None  # requests that it works on at once (/props, else /slots)
    context: int | None = None  # tokens of one slot, prompt and answer together
    models: tuple[str, ...] = ()  # the ids of /v1/models
    aliases: tuple[str, ...] = ()  # their other names
    metrics: bool = False  # /metrics exists

    @property
    def model(self) -> str | None:
        """The name that it goes by."""
        return self.models[0] if self.models else None

    def stands_for(self, name: str) -> bool:
        """Whether requests for the model `name` can be answered by this server.

        A server of one model, as llamafile is, stands for whatever it was started for: it goes by its file's name and
        does not look at a request's. One that lists several models picks by name, and must have that one.
        """
        return len(self.models) <= 1 or plain(name) in {plain(known) for known in (*self.models, *self.aliases)}


@dataclass(frozen=True, slots=True)
class Question:
    """Ask /health once."""

    run: int  # which run of the child is asked
    pid: int
    want_facts: bool  # and for the facts, if it answers 200


@dataclass(frozen=True, slots=True)
class Health:
    """One answer to /health, or none."""

    run: int
    status: int  # HTTP status; 0: no answer
    said: str  # why there was none, or the beginning of the answer
    cpu_s: float | None = None  # CPU time that the child has used, looked up when the status was not 200
    facts: Facts | None = None


class Prober:
    """The thread that asks. `ask` returns at once; the answer comes through `post`, from the thread.

    Args:
        address: `http://host:port` of the server.
        key: its API key.
        cpu_seconds: the CPU time that a process and its children have used.
        timeout_s: how long an answer may take.
        post: gets each answer.
    """

    def __init__(
        self,
        address: str,
        key: str,
        cpu_seconds: Callable[[int], float],
        timeout_s: float,
        post: Callable[[Health], None],
    ) -> None:
        self._address, self._key, self._timeout_s = address, key, timeout_s
        self._cpu_seconds, self._post = cpu_seconds, post
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="llamafile-health", daemon=True).start()

    def ask(self, question: Question) -> None:
        """Ask; one question after the other."""
        self._questions.put(question)

    def _serve(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to loopback
            session.headers["Authorization"] = f"Bearer {self._key}"
            while True:
                question = self._questions.get()
                self._post(self._health(session, question))

    def _health(self, session: requests.Session, question: Question) -> Health:
        status, said = self._get(session, "/health")
        if status != 200:
            return Health(question.run, status, said[:200], cpu_s=self._cpu_seconds(question.pid))
        return Health(question.run, status, said[:200], facts=self._facts(session) if question.want_facts else None)

    def _facts(self, session: requests.Session) -> Facts:
        def get(path: str) -> object:
            status, said = self._get(session, path)
            with contextlib.suppress(ValueError):
                return json.loads(said) if status == 200 else None
            return None

        has_metrics = self._get(session, "/metrics")[0] == 200
        return facts_from(get("/props"), get("/slots"), get("/v1/models"), has_metrics)

    def _get(self, session: requests.Session, path: str) -> tuple[int, str]:
        """Status and body; 0 and the reason where no answer came."""
        try:
            answer = session.get(self._address + path, timeout=self._timeout_s, allow_redirects=False)
            return answer.status_code, answer.text
        except requests.RequestException as fault:
            return 0, type(fault).__name__


def facts_from(props: object, slots: object, models: object, has_metrics: bool) -> Facts:
    """The facts in the JSON of /props, /slots and /v1/models, each None or of an unknown shape where there is none.

    Shapes: llama.cpp tools/server/README.md; older llamafiles have parts of it.
    """
    each_slot, listed = array(slots), array(field(models, "data"))
    defaults = field(props, "default_generation_settings")
    return Facts(
        slots=count(field(props, "total_slots")) or len(each_slot) or None,
        context=count(field(defaults, "n_ctx")) or (count(field(each_slot[0], "n_ctx")) if each_slot else None),
        models=names(field(entry, "id") for entry in listed),
        aliases=names(alias for entry in listed for alias in array(field(entry, "aliases"))),
        metrics=has_metrics,
    )


def names(values: Iterable[object]) -> tuple[str, ...]:
    """Those that are names."""
    return tuple(value for value in values if isinstance(value, str) and value)


def array(value: object) -> list[object]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def plain(name: str) -> str:
    """A model's name without what files add to it: `/models/Gemma-3.Q4.gguf` and `gemma-3.q4` are the same."""
    return name.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".gguf").removesuffix(".llamafile")


def field(value: object, name: str) -> object:
    """The member of a JSON object, None if it is none or has none."""
    return value.get(name) if isinstance(value, Mapping) else None


def count(value: object) -> int | None:
    """The value if it is a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
