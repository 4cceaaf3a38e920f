"""The page for the person at the box: one snapshot and the recent past, as HTML without anything from elsewhere.

Pure but for reading its template (page.html) once. Whatever comes from outside is escaped here and nowhere else; the
page's script only draws curves, and puts what the next rendering says in the place of what the last one said.
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
from supervisor.observability.snapshot import INTAKES, About, Next, Snapshot, Told
from workernode.record import rfc3339

TITLES = {
    "starting": "Starting",
    "draining": "Draining",
    "stopping": "Stopping",
    "stopped": "Stopped",
}
FITNESS = {"fit": "fit", "limited": "limited by its rate limit", "unfit": "unfit"}


@cache
def _template() -> str:
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


@cache
def content_security_policy() -> str:
    """The header that lets the page's own style and script be used, its own address be asked, and nothing else."""

    def hashed(tag: str) -> str:
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", _template(), re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def render(about: About, now: Snapshot, since: float, history: History, limits: tuple[float, float]) -> bytes:
    """Return the page.

    Args:
        since: monotonic, since when the node is ready or is not.
        limits: CPU_HIGH and MEMORY_HIGH, percent.
    """
    moment = time.monotonic()
    data = history.columns(moment) | {
        "cpu_high": limits[0],
        "memory_high": limits[1],
        "cap_reason": clean(now.cap_reason),
    }
    parts = {
        "title": escape(f"{title(now)} · {about.model}"),
        "state": _state(about, now, moment - since, moment),
        "facts": _facts(now),
        "reports": _told("Last reports", "the management node was told", now.reports, moment),
        "faults": _told("Last faults", "the log told", now.faults, moment),
        "model": _model(now),
        "footer": _footer(about),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], _template()).encode("utf-8", "replace")


def title(now: Snapshot) -> str:
    """The state in a word or two."""
    return TITLES.get(now.state) or ("Ready" if now.ready else "Not ready")


def tone(now: Snapshot) -> str:
    """How good that is: good, warn or bad."""
    if now.ready:
        return "good" if now.intake in ("open", "full") else "warn"
    return "warn" if now.state in TITLES else "bad"


def sentence(now: Snapshot) -> str:
    """What the node does now, where nothing keeps it from being ready."""
    tasks = f"{now.in_flight} {'task' if now.in_flight == 1 else 'tasks'} in flight of {now.cap} at most"
    return f"{tasks}: {INTAKES.get(now.intake, now.intake)}."


def duration(seconds: float) -> str:
    """For a person: 12 s, 3 min, 2 h 5 min, 4 d 3 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{days} d {hours % 24} h"


def coming(each: Next, moment: float) -> str:
    """What comes by itself, and when."""
    if each.at is None:
        return each.what
    return f"{each.what} in {duration(each.at - moment)}" if each.at > moment else f"{each.what} now"


def clean(text: str) -> str:
    """The text without control characters and marks that turn its direction: it may be anybody's."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def _text(text: str) -> str:
    return escape(clean(text))


def _list(sentences: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{_text(each)}</li>" for each in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _state(about: About, now: Snapshot, lasts: float, moment: float) -> str:
    said = [f"{each[:1].upper()}{each[1:]}" for each in now.why] or [sentence(now)]
    told = "" if now.ready else f" for {duration(lasts)}"
    after = [f"Next: {coming(each, moment)}." for each in now.next]
    ready = f"<p class=soft>Ready for {duration(lasts)}</p>" if now.ready else ""
    return (
        f'<div class="card state {tone(now)}"><p class="soft">{_text(about.model)} · {_text(about.node)}</p>'
        f'<h1>{title(now)}{told}</h1>{_list(said, "why")}{_list(after, "soft")}{ready}</div>'
    )


def _facts(now: Snapshot) -> str:
    accounts = now.accounts
    rows: Sequence[tuple[str, str, str]] = (
        ("Cap", str(now.cap), now.cap_reason),
        ("Slots", str(now.slots), f"{now.workers_ready} of {now.workers} workers ready"),
        ("Taken", str(accounts.taken), "messages since the start"),
        ("Acked", str(accounts.acked), ""),
        ("Sent back", str(accounts.sent_back), f"{now.held_back} wait here for their delay" if now.held_back else ""),
        ("Dead-lettered", str(accounts.dead_lettered), ""),
        ("Records not stored yet", str(now.records_held), ""),
        ("Broker", "connected" if now.broker_connected else "not connected", ""),
        ("Upstream", FITNESS.get(now.fitness, now.fitness), ""),
        *((("Local model", now.child, ""),) if now.child else ()),
        ("Memory free", f"{now.memory_free_bytes / 2**30:.1f} GiB", f"of {now.memory_limit_bytes / 2**30:.1f} GiB"),
    )
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{_text(value)}{f'<span class=note>{_text(note)}</span>' if note else ''}</dd></div>"
        for name, value, note in rows
    )
    return f"<h2>Figures</h2><dl class=facts>{cells}</dl>"


def _told(heading: str, whom: str, told: Sequence[Told], moment: float) -> str:
    if not told:
        return f"<h2>{heading}</h2><p class=soft>None: {whom} nothing.</p>"
    rows = []
    for each in told:
        at = escape(rfc3339(time.time() - (moment - each.at)) or "")
        often = f" <span class=soft>({each.times} times)</span>" if each.times > 1 else ""
        rows.append(
            f'<tr><td class=soft><time datetime="{at}" title="{at}">{duration(moment - each.at)} ago</time></td>'
            f"<td>{_text(each.what)}{often}</td><td>{_text(each.text)}</td></tr>"
        )
    head = "<tr><th scope=col class=when>When</th><th scope=col class=what>What</th><th scope=col>In words</th></tr>"
    return f"<h2>{heading}</h2><table class=told><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _model(now: Snapshot) -> str:
    if not now.child:
        return ""
    lines = "\n".join(map(_text, now.child_lines)) or "(nothing yet)"
    shown = f'<pre tabindex=0 aria-label="Output">{lines}</pre>'
    return f"<div class=card><h2>The local model's last lines ({_text(now.child)})</h2>{shown}</div>"


def _footer(about: About) -> str:
    links = " · ".join(f'<a href="{path}">{path}</a>' for path in ("/readyz", "/metrics", "/livez"))
    return f"WorkerNode {_text(about.version)}, {_text(about.node_type)} · {links}"
