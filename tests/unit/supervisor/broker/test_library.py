"""How the client library is set up: what it is given to authenticate by."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.broker import Access, Topics, library
from supervisor.broker.library import authentication
from tests.unit.supervisor.broker.adapter import VARIABLES
from workernode.settings import load

URL = "pulsar+ssl://broker:6651"
LIBRARY = SimpleNamespace(
    AuthenticationToken=lambda token: ("token", token()),
    AuthenticationOauth2=lambda text: ("oauth2", text),
    AuthenticationTLS=lambda certificate, key: ("tls", certificate, key),
)


@pytest.mark.parametrize(
    ("access", "given"),
    [
        (Access(URL), None),
        (Access(URL, "eyJ"), ("token", "eyJ")),
        (Access(URL, "eyJ", tls_cert="/c"), ("token", "eyJ")),
        (Access(URL, tls_cert="/c", tls_key="/k"), ("tls", "/c", "/k")),
        (Access(URL, tls_cert="/c"), ("tls", "/c", "/c")),
        (Access(URL, oauth2="{}"), ("oauth2", "{}")),
    ],
    ids=["nothing", "token", "token and certificate", "certificate and key", "both in one file", "OAuth2"],
)
def test_what_is_set_authenticates(access: Access, given: object) -> None:
    assert authentication(access, LIBRARY) == given


def test_a_token_in_a_file_is_read_again_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    supply = authentication(Access(URL, f"file:{file}"), SimpleNamespace(AuthenticationToken=lambda supply: supply))
    assert supply() == "first"
    file.write_text("second\n")
    assert supply() == "second"


def test_a_token_that_changes_is_used_from_the_next_connection_on() -> None:
    """`token` gives the one of the moment; the broker asks again for one that ends."""
    assert authentication(Access(URL, "first"), LIBRARY, lambda: "second") == ("token", "second")


def test_no_secret_is_shown() -> None:
    assert "canary" not in repr(Access(URL, "canary", oauth2="canary"))


@pytest.mark.parametrize(
    ("variables", "tasks", "records"),
    [
        ({}, "persistent://public/default/model-m", "persistent://public/default/bills"),
        ({"PULSAR_NAMESPACE": "ai/prod"}, "persistent://ai/prod/model-m", "persistent://ai/prod/bills"),
        (
            {"PULSAR_NAMESPACE": "ai/prod", "RES_TOPIC_NAME": "persistent://acc/bills/all"},
            "persistent://ai/prod/model-m",
            "persistent://acc/bills/all",
        ),
    ],
    ids=["default", "namespace", "records elsewhere"],
)
def test_topics_are_in_the_namespace(variables: dict[str, str], tasks: str, records: str) -> None:
    topics = Topics.of(load({**VARIABLES, **variables}))
    assert (topics.tasks, topics.records) == (tasks, records)
    assert topics.subscription == "model-m-subscription"
    assert topics.dead_letters == f"{tasks}-model-m-subscription-DLQ"


def test_the_python_state_of_a_thread_is_kept_once_however_many_callbacks_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[int] = []
    interpreter = SimpleNamespace(PyGILState_Ensure=lambda: kept.append(threading.get_ident()))
    monkeypatch.setattr(library, "ctypes", SimpleNamespace(pythonapi=interpreter))

    def run_callbacks() -> None:
        for _ in range(3):
            library.keep_thread_state()

    threads = [threading.Thread(target=run_callbacks) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == len(threads)
