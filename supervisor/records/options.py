"""The command line of `workernode-records`: its commands, options and their formats."""

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
    """Return the parser of the command line. Defaults come from the environment variables that the node uses, too."""
    whole = argparse.ArgumentParser(
        prog="workernode-records",
        description="Shows the billing records of the nodes. Reads the record topic and removes nothing from it.",
    )
    commands = whole.add_subparsers(dest="command", required=True)
    tail = commands.add_parser("tail", help="show records as they come; Ctrl-C ends it")
    add_up = commands.add_parser(
        "sum",
        help="add records up",
        description="Adds records up. A record that was sent twice counts once. nak'd: deliveries that went back to "
        "the broker. counted: answers that broke off before upstream sent its usage; the node counted their tokens, "
        "without those of the prompt. estimated: the same with the prompt's, by TOKENIZER. 1st token: the time from "
        "asking upstream to its first chunk.",
    )
    add_up.add_argument(
        "--by",
        type=groups,
        default=("model",),
        help=f"group by one or more of these, with commas between: {', '.join(GROUPS)} (default: model)",
    )
    for options, since in ((tail, "10m"), (add_up, "1h")):
        add_source(options, environ)
        options.add_argument(
            "--since",
            type=moment,
            default=since,
            help=f"the oldest record: its age (30m, 6h, 7d) or its time (2026-01-31T08:00:00Z) (default: {since})",
        )
        form = options.add_mutually_exclusive_group()
        form.add_argument("--json", dest="form", action="store_const", const="json", default="table", help="print JSON")
        form.add_argument("--csv", dest="form", action="store_const", const="csv", help="print CSV")
    return whole


def add_source(options: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the options for the place of the records."""
    options.add_argument(
        "--url",
        type=variable("PULSAR_URL"),
        default=environ.get("PULSAR_URL"),
        required="PULSAR_URL" not in environ,
        help="address of the broker (default: PULSAR_URL)",
    )
    options.add_argument(
        "--topic",
        type=variable("RES_TOPIC_NAME"),
        default=environ.get("RES_TOPIC_NAME") or VARIABLES["RES_TOPIC_NAME"].default,
        help="topic of the records (default: RES_TOPIC_NAME, else res-topic)",
    )
    options.add_argument(
        "--token",
        type=variable("PULSAR_TOKEN"),
        default=environ.get("PULSAR_TOKEN", ""),
        help="token for the broker (default: PULSAR_TOKEN; prefer the variable: `ps` shows arguments to all users)",
    )


def variable(name: str) -> Callable[[str], object]:
    """Return a reader for an argument that has the format of a variable."""

    def read(text: str) -> object:
        form = VARIABLES[name].format
        try:
            return form.parse(text.strip()) if text.strip() else ""
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name} {error}; it must be {form.expected}") from None

    return read


def groups(text: str) -> tuple[str, ...]:
    """Read the names after --by."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if wrong := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(
            f"cannot group by {', '.join(map(repr, wrong))}; choose from {', '.join(GROUPS)}"
        )
    return names


def moment(text: str) -> float:
    """Read an age or a time; return seconds since the epoch."""
    if age := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return max(0.0, time.time() - int(age[1]) * UNITS[age[2]])
    try:
        when = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an age (30m, 6h, 7d) nor a time (2026-01-31T08:00:00Z)"
        ) from None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
