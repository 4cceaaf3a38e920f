"""The command line of `workernode-records`: what may be said, and what it means."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from supervisor.records.sums import GROUPS
from workernode.settings import VARIABLES

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}  # seconds


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line. What is not said comes from the environment, as the node's own settings do."""
    whole = argparse.ArgumentParser(
        prog="workernode-records", description="Shows the billing records of the nodes. Takes none away."
    )
    commands = whole.add_subparsers(dest="command", required=True)
    tail = commands.add_parser("tail", help="records as they come; Ctrl-C ends it")
    add_up = commands.add_parser(
        "sum",
        help="records added up",
        description="Adds records up; one that was sent twice counts once. handed back: deliveries that were refused "
        "and came again. 1st token: from asking upstream to its first chunk.",
    )
    add_up.add_argument(
        "--by",
        type=groups,
        default=("model",),
        help=f"a line for each of these, commas between: {', '.join(GROUPS)} (default: model)",
    )
    for options, since in ((tail, "10m"), (add_up, "1h")):
        add_source(options, environ)
        options.add_argument(
            "--since",
            type=moment,
            default=since,
            help=f"from so long ago (30m, 6h, 7d) or from a time (2026-01-31T08:00:00Z) on (default: {since})",
        )
        form = options.add_mutually_exclusive_group()
        form.add_argument("--json", dest="form", action="store_const", const="json", default="table", help="as JSON")
        form.add_argument("--csv", dest="form", action="store_const", const="csv", help="as CSV")
    return whole


def add_source(options: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options that say where the records are."""
    options.add_argument(
        "--url",
        type=variable("PULSAR_URL"),
        default=environ.get("PULSAR_URL"),
        required="PULSAR_URL" not in environ,
        help="the broker (default: PULSAR_URL)",
    )
    options.add_argument(
        "--topic",
        type=variable("RES_TOPIC_NAME"),
        default=environ.get("RES_TOPIC_NAME") or VARIABLES["RES_TOPIC_NAME"].default,
        help="where the records are (default: RES_TOPIC_NAME, else res-topic)",
    )
    options.add_argument(
        "--token",
        type=variable("PULSAR_TOKEN"),
        default=environ.get("PULSAR_TOKEN", ""),
        help="the broker's token (default: PULSAR_TOKEN; `ps` shows arguments to everybody)",
    )


def variable(name: str) -> Callable[[str], object]:
    """An argument that must look as the variable does."""

    def read(text: str) -> object:
        form = VARIABLES[name].format
        try:
            return form.parse(text.strip()) if text.strip() else ""
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name} {error}; it must be {form.expected}") from None

    return read


def groups(text: str) -> tuple[str, ...]:
    """The names after --by."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if wrong := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(map(repr, wrong))}; there are {', '.join(GROUPS)}")
    return names


def moment(text: str) -> float:
    """A moment, in seconds since the epoch, said as an age or as a time."""
    if age := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return max(0.0, time.time() - int(age[1]) * UNITS[age[2]])
    try:
        when = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an age (30m, 6h, 7d) nor a time") from None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
