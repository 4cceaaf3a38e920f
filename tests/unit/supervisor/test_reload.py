"""Secrets are read again when their files change or when somebody asks; nothing else changes while the node runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.events import Event, ReloadFailed, SettingsReloaded
from supervisor.reload import Reloader
from workernode import redaction
from workernode.settings import load, read_environment

ENVIRON = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "m",
    "API_URL": "https://api.example.com",
    "PULSAR_URL": "pulsar://broker",
}


class Setup:
    """A reloader over a folder with `.env` and the file of the key, and the events that it posts."""

    def __init__(self, folder: Path) -> None:
        self.key, self.dotenv = folder / "key", folder / ".env"
        self.key.write_text("sk-first-1")
        self.environ = {**ENVIRON, "API_KEY_FILE": str(self.key)}
        self.events: list[Event] = []
        settings = load(read_environment(self.environ, self.dotenv))
        self.reloader = Reloader(
            settings, lambda: load(read_environment(self.environ, self.dotenv)), self.events.append
        )

    def check(self, *, is_asked: bool = False) -> list[Event]:
        self.reloader.check(is_asked=is_asked)
        events, self.events[:] = list(self.events), []
        return events


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setattr(redaction, "_added", ())
    return Setup(tmp_path)


def test_a_file_that_did_not_change_is_not_read_again(setup: Setup) -> None:
    assert setup.check() == []


def test_a_new_key_is_posted_once_and_hidden_from_then_on(setup: Setup) -> None:
    setup.key.write_text("sk-second-2\n")
    [event] = setup.check()
    assert isinstance(event, SettingsReloaded)
    assert (event.settings.api_key, event.changed, event.need_restart) == ("sk-second-2", ("API_KEY",), ())
    assert redaction.redact("no sk-second-2", ()) == "no ***"
    assert setup.check() == []


def test_a_symbolic_link_that_is_swapped_as_kubernetes_does_is_a_change(tmp_path: Path, setup: Setup) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "key").write_text(f"sk-mounted-{number}")
    setup.key.unlink()
    (tmp_path / "..data").symlink_to("..1")
    setup.key.symlink_to(Path("..data", "key"))
    assert [event.settings.api_key for event in setup.check()] == ["sk-mounted-1"]
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert [event.settings.api_key for event in setup.check()] == ["sk-mounted-2"]


def test_a_file_that_cannot_be_used_is_reported_once_and_the_old_key_stays(setup: Setup) -> None:
    setup.key.write_text("")
    [event] = setup.check()
    assert isinstance(event, ReloadFailed)
    assert "API_KEY_FILE names" in event.faults[0]
    setup.key.unlink()
    assert [type(each) for each in setup.check()] == [ReloadFailed]
    assert setup.check() == []
    setup.key.write_text("sk-second-2")
    assert [event.changed for event in setup.check()] == [("API_KEY",)]


def test_when_asked_it_reads_the_env_file_too_and_names_what_needs_a_restart(setup: Setup) -> None:
    setup.dotenv.write_text("PULSAR_TOKEN=eyJ.new\nNAK_DELAY=7\nMODEL_NAME=hidden-by-the-environment\n")
    [event] = setup.check(is_asked=True)
    assert isinstance(event, SettingsReloaded)
    assert (event.changed, event.need_restart) == (("PULSAR_TOKEN",), ("NAK_DELAY",))
    assert (event.settings.pulsar_token, event.settings.nak_delay) == ("eyJ.new", 1)


def test_when_asked_it_answers_even_if_nothing_changed(setup: Setup) -> None:
    [event] = setup.check(is_asked=True)
    assert isinstance(event, SettingsReloaded)
    assert (event.changed, event.need_restart) == ((), ())


def test_a_file_that_is_named_later_is_watched(tmp_path: Path, setup: Setup) -> None:
    (tmp_path / "token").write_text("eyJ.1")
    setup.dotenv.write_text(f"PULSAR_TOKEN_FILE={tmp_path / 'token'}\n")
    [event] = setup.check(is_asked=True)
    assert set(event.changed) == {"PULSAR_TOKEN", "PULSAR_TOKEN_FILE"}
    (tmp_path / "token").write_text("eyJ.22")
    assert [event.settings.pulsar_token for event in setup.check()] == ["eyJ.22"]
