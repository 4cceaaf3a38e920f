"""Formats records and their sums as a table, CSV or JSON. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from supervisor.records.sums import GROUPS, Record, Sum, Sums, count, first_token_ms, member

# The header of a table of sums.
HEADS = {
    "requests": "requests",
    "errors": "errors",
    "handed_back": "nak'd",
    "counted": "counted",
    "estimated": "estimated",
    "prompt_tokens": "prompt",
    "completion_tokens": "completion",
    "total_tokens": "tokens",
    "cost": "cost",
    "first_token_p50_ms": "1st token p50 ms",
    "first_token_p95_ms": "p95 ms",
}
WIDEST = 40  # characters of a name in a table

# The columns of `tail`: name, width, and where it comes from.
TAIL = {"time": 12, "status": 14, "model": 20, "client": 20, "node": 16, "prompt": 8, "completion": 10,
        "first_token_ms": 14, "total_ms": 9, "request_id": 36}  # fmt: skip
TAIL_FIGURES = ("prompt", "completion", "first_token_ms", "total_ms")


def shown(value: object) -> str:
    """Return a value as a table shows it: no control characters, not too long; numbers in groups of three digits."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return f"{value:,.0f}".replace(",", " ")
    text = "".join(sign if sign.isprintable() else "?" for sign in str(value))
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def table(sums: Sums) -> str:
    """Return the sums as a table for people."""
    heads = [*sums.by, *HEADS.values()]
    rows = [[*map(shown, names), *map(shown, each.figures().values())] for names, each in sums.groups()]
    if len(rows) != 1:
        rest = [""] * (len(sums.by) - 1)
        rows.append(["all", *rest, *map(shown, sums.total.figures().values())])
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if place < len(sums.by) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, [heads, *rows])) + "\n"


def sums_csv(sums: Sums) -> str:
    """Return the sums as CSV, one line for each group."""
    rows = [[*names, *each.figures().values()] for names, each in sums.groups()]
    return csv_lines([[*sums.by, *Sum().figures()], *rows])


def sums_json(sums: Sums, **about: object) -> str:
    """Return the sums as one JSON object.

    Args:
        sums: the groups and the total.
        about: further members of the object.
    """
    groups = [{**dict(zip(sums.by, names, strict=True)), **each.figures()} for names, each in sums.groups()]
    skipped = {"duplicates": sums.duplicates, "unreadable": sums.unreadable}
    return json.dumps({**about, **skipped, "groups": groups, "total": sums.total.figures()}, indent=1) + "\n"


def tail_row(record: Record) -> dict[str, Any]:
    """Return a record as a row of `tail`: a value for each column."""
    moments = [member(record, f"timestamps.{name}") for name in ("answered", "upstream_done", "received")]
    return {
        "time": next((moment for moment in moments if isinstance(moment, str)), None),
        "status": GROUPS["status"](record),
        "model": GROUPS["model"](record),
        "client": GROUPS["client"](record),
        "node": GROUPS["node"](record),
        "prompt": count(record, "usage.prompt_tokens"),
        "completion": count(record, "usage.completion_tokens"),
        "first_token_ms": first_token_ms(record),
        "total_ms": member(record, "durations_ms.total"),
        "request_id": member(record, "request_id"),
    }


def tail_head(width: int = 0) -> str:
    """Return the header line of `tail`."""
    return _line({name: name for name in TAIL}, width)


def tail_line(row: dict[str, Any], width: int = 0) -> str:
    """Return a row in the columns of `tail`, with the time of day in UTC.

    Args:
        row: from `tail_row`.
        width: of the terminal in characters; 0: the line may have any length.
    """
    return _line(row | {"time": (row["time"] or "").partition("T")[2].rstrip("Z")}, width)


def _line(row: dict[str, Any], width: int) -> str:
    line = "  ".join(_cell(name, shown(row[name])) for name in TAIL).rstrip()
    return (line[: width - 1] if width else line) + "\n"


def _cell(name: str, text: str) -> str:
    width = TAIL[name]
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.rjust(width) if name in TAIL_FIGURES else text.ljust(width)


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV."""
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()
