"""Settings shows no secret, and the table describes every variable."""

from __future__ import annotations

import pickle

from tests.unit.workernode.settings.environments import REMOTE
from workernode.settings import VARIABLES, Settings, describe, load


def test_repr_hides_the_secrets_and_a_query_string() -> None:
    got = load({**REMOTE, "PULSAR_TOKEN": "eyJcanary", "API_URL": "https://h/v1?api-key=canary-3&api-version=7"})
    assert "canary" not in repr(got)
    assert "api_key='***', " in repr(got)
    assert "pulsar_token='***', " in repr(got)
    assert got.secrets == (REMOTE["API_KEY"], "eyJcanary", "canary-3")
    assert "pulsar_token=''" in repr(load(REMOTE))


def test_settings_cross_a_process_border_unchanged() -> None:
    assert pickle.loads(pickle.dumps(load(REMOTE))) == load(REMOTE)  # noqa: S301 (our own bytes)


def test_the_table_has_a_row_for_every_field_and_its_defaults_are_right() -> None:
    table = describe()
    assert [name for name, _, _ in table] == [name.upper() for name in Settings.__slots__]
    assert ("MAX_PROCESS_NUM", "128") in [row[:2] for row in table]
    assert ("API_KEY", "required for remote") in [row[:2] for row in table]
    for variable in VARIABLES.values():
        if variable.default is not None:
            variable.format.parse(variable.default)
