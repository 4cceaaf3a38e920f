"""An environment for each type of node, and the faults of one that is wrong."""

from __future__ import annotations

import pytest

from workernode.settings import SettingsError, load

REMOTE = {
    "NODE_TYPE": "remote",
    "MODEL_NAME": "gpt-4o",
    "API_URL": "https://api.example.com",
    "API_KEY": "sk-canary-0123456789",
    "PULSAR_URL": "pulsar://broker:6650",
}
LOCAL = {"NODE_TYPE": "local", "MODEL_NAME": "gemma", "PULSAR_URL": "pulsar://broker:6650"}


def faults(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return caught.value.faults
