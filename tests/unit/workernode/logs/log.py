"""A log that is written into a file, for the tests of this folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from workernode.logs.formats import JsonLines, TextLines
from workernode.logs.handler import LineHandler
from workernode.logs.output import Output
from workernode.logs.repeats import WINDOW_S
from workernode.redaction import Redactor

KEY = "sk-canary/0\"1'2\\3+4"


class Log:
    """Writes into a file: what is logged with `log` is in `lines`."""

    def __init__(
        self, path: Path, *, as_json: bool = True, secrets: tuple[str, ...] = (KEY,), window_s: float = WINDOW_S
    ) -> None:
        self.now = 1000.0
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        redactor = Redactor(secrets, as_json=as_json)
        formatter = JsonLines(redactor, {"model": "m", "worker": 3}) if as_json else TextLines(redactor)
        self.handler = LineHandler(Output(self._fd), formatter, clock=lambda: self.now, window_s=window_s)
        self.log = logging.Logger("workernode.test")
        self.log.addHandler(self.handler)

    @property
    def text(self) -> str:
        return self._path.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=pytest.fail) for line in self.text.split("\n")[:-1]]

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines]

    def close(self) -> None:
        self.handler.close()
        os.close(self._fd)
