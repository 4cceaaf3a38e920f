"""The page for people who run the node: one snapshot and the recent past as HTML that loads nothing from elsewhere.

Reads its template (page.html) once, and does no other I/O. Text from outside is escaped here and nowhere else: the
page's script only draws curves and replaces sections by those of the next rendering.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from supervisor.observability.history import History
from supervisor.observability.snapshot import INTAKES, NodeInfo, Notice, Snapshot, Upcoming
from supervisor.readings import Gpu
from workernode.record import rfc3339

TITLES = {
    "starting": "Starting",
    "draining": "Draining",
    "stopping": "Stopping",
    "stopped": "Stopped",
}
FITNESS = {
    "fit": "fit",
    "limited": "limited by its rate limit",
    "suspect": "suspect: refused a task",
    "away": "away",
    "unfit": "unfit",
}


@cache
def _template() -> str:
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


@cache
def content_security_policy() -> str:
    """Return the header that allows the page's own style, script and address, and nothing else."""

    def hashed(tag: str) -> str:
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", _template(), re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def render(info: NodeInfo, now: Snapshot, since: float, history: History, limits: tuple[float, float]) -> bytes:
    """Return the page.

    Args:
        info: which node it is.
        now: its state.
        since: monotonic: when the node became ready, or stopped being ready.
        history: the figures of the last 15 minutes.
        limits: CPU_HIGH and MEMORY_HIGH, percent.
    """
    moment = time.monotonic()
    data = history.columns(moment) | {
        "cpu_high": limits[0],
        "memory_high": limits[1],
        "cap_reason": clean(now.cap_reason),
    }
    parts = {
        "title": escape(f"{title(now)} · {info.model}"),
        "state": _state(info, now, moment - since, moment),
        "facts": _facts(now),
        "reports": _notices("Last reports", "nothing was reported to the management node", now.reports, moment),
        "faults": _notices("Last faults", "the log has no warning and no error", now.faults, moment),
        "model": _model(now),
        "footer": _footer(info),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], _template()).encode("utf-8", "replace")


def title(now: Snapshot) -> str:
    """Return the state in a word or two."""
    return TITLES.get(now.state) or ("Ready" if now.ready else "Not ready")


def tone(now: Snapshot) -> str:
    """Return the colour of the state: good, warn or bad."""
    if now.ready:
        return "good" if now.intake in ("open", "full", "asleep") else "warn"
    return "warn" if now.state in TITLES else "bad"


def sentence(now: Snapshot) -> str:
    """Return what a ready node does now."""
    tasks = f"{now.in_flight} {'task' if now.in_flight == 1 else 'tasks'} in flight of {now.cap} at most"
    return f"{tasks}: {INTAKES.get(now.intake, now.intake)}."


def duration(seconds: float) -> str:
    """Return a duration for people: 12 s, 3 min, 2 h 5 min, 4 d 3 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{days} d {hours % 24} h"


def upcoming(each: Upcoming, moment: float) -> str:
    """Return what will happen, and in how many seconds."""
    if each.at is None:
        return each.what
    return f"{each.what} in {duration(each.at - moment)}" if each.at > moment else f"{each.what} now"


def clean(text: str) -> str:
    """Return the text without control characters and marks that change its direction: it may come from anybody."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def _text(text: str) -> str:
    return escape(clean(text))


def _list(sentences: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{_text(each)}</li>" for each in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _state(info: NodeInfo, now: Snapshot, lasts: float, moment: float) -> str:
    sentences = [f"{each[:1].upper()}{each[1:]}" for each in now.why] or [sentence(now)]
    how_long = "" if now.ready else f" for {duration(lasts)}"
    after = [f"Next: {upcoming(each, moment)}." for each in now.next]
    ready = f"<p class=soft>Ready for {duration(lasts)}</p>" if now.ready else ""
    return (
        f'<div class="card state {tone(now)}"><p class="soft">{_text(info.model)} · {_text(info.node)}</p>'
        f"<h1>{title(now)}{how_long}</h1>{_list(sentences, 'why')}{_list(after, 'soft')}{ready}</div>"
    )


def _facts(now: Snapshot) -> str:
    totals = now.totals
    nak_note = f"{now.held_back} wait here until their delay is over" if now.held_back else ""
    rows: Sequence[tuple[str, str, str]] = (
        ("Cap", str(now.cap), now.cap_reason),
        ("Slots", str(now.slots), f"{now.workers_ready} of {now.workers} workers ready"),
        ("Backlog", *_backlog(now)),
        ("Messages taken", str(totals.taken), "since the start"),
        ("Acked", str(totals.acked), ""),
        ("Nak'd", str(totals.nakked), nak_note),
        ("Dead-lettered", str(totals.dead_lettered), ""),
        *((("Cost of the last hour", now.cost, "by PRICES"),) if now.cost else ()),
        ("Records not stored yet", str(now.records_held), ""),
        ("Broker", "connected" if now.broker_connected else "not connected", ""),
        ("Upstream", FITNESS.get(now.fitness, now.fitness), now.fitness_why),
        *((("Local model", now.child, ""),) if now.child else ()),
        ("Memory free", f"{now.memory_free_bytes / 2**30:.1f} GiB", f"of {now.memory_limit_bytes / 2**30:.1f} GiB"),
        *map(_gpu, now.gpus),
    )
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{_text(value)}{f'<span class=note>{_text(note)}</span>' if note else ''}</dd></div>"
        for name, value, note in rows
    )
    return f"<h2>Figures</h2><dl class=facts>{cells}</dl>"


def _gpu(gpu: Gpu) -> tuple[str, str, str]:
    free = (gpu.memory_limit_bytes - gpu.memory_used_bytes) / 2**30
    load = "" if gpu.load_percent is None else f", load {gpu.load_percent:.0f} %"
    temperature = "" if gpu.temperature_c is None else f", {gpu.temperature_c:.0f} °C"
    note = f"of {gpu.memory_limit_bytes / 2**30:.1f} GiB{load}{temperature}: {gpu.name}"
    return f"Memory free, GPU {escape(gpu.number)}", f"{free:.1f} GiB", note


def _backlog(now: Snapshot) -> tuple[str, str]:
    """What the node knows of the tasks that wait in the broker: only an administrator may ask how many there are."""
    if now.intake == "open":
        return "short", "the node has room: it takes what comes"
    return "not known", "see the broker's metric pulsar_subscription_back_log"


def _notices(heading: str, none: str, notices: Sequence[Notice], moment: float) -> str:
    if not notices:
        return f"<h2>{heading}</h2><p class=soft>None: {none}.</p>"
    rows = []
    for each in notices:
        at = escape(rfc3339(time.time() - (moment - each.at)) or "")
        often = f" <span class=soft>({each.times} times)</span>" if each.times > 1 else ""
        rows.append(
            f'<tr><td class=soft><time datetime="{at}" title="{at}">{duration(moment - each.at)} ago</time></td>'
            f"<td>{_text(each.what)}{often}</td><td>{_text(each.text)}</td></tr>"
        )
    head = "<tr><th scope=col class=when>When</th><th scope=col class=what>What</th><th scope=col>Details</th></tr>"
    return f"<h2>{heading}</h2><table class=notices><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _model(now: Snapshot) -> str:
    if not now.child:
        return ""
    lines = "\n".join(map(_text, now.child_lines)) or "(no output yet)"
    shown = f'<pre tabindex=0 aria-label="Output">{lines}</pre>'
    return f"<div class=card><h2>Last output of the local model server ({_text(now.child)})</h2>{shown}</div>"


def _footer(info: NodeInfo) -> str:
    links = " · ".join(f'<a href="{path}">{path}</a>' for path in ("/readyz", "/metrics", "/livez"))
    return f"WorkerNode {_text(info.version)}, {_text(info.node_type)} · {links}"
