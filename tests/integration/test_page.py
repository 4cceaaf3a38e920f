"""The page: checked as text everywhere, and in Chromium where it is installed.

Where there is none those tests are left out, and the summary at the end of the run names them and what to install.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from supervisor.observability import page
from supervisor.observability.snapshot import INTAKES, Notice, Upcoming
from supervisor.readings import Gpu
from tests.support.browser import MISSING, Browser, Page, browser, find
from tests.support.status import INFO, LINES, Shown, life, serving, shown
from tests.support.wait import until

# What somebody upstream might put into an error's message.
HOSTILE = (
    '<script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">"\'><svg onload=window.harmed=1>'
    "</textarea></pre></script><!-- {{data}} {{footer}} &lt; \u202eevil\x1b[31m\x00 ${window.harmed=1} `"
)
VOID = {"meta", "link", "img", "br"}


@pytest.fixture
def server() -> Iterator[Shown]:
    """A server of this test's own that shows the last 15 minutes of a node."""
    with shown() as one:
        for each in life(time.monotonic() - 5):  # so that what comes now is another point of the curves
            one.server.update(each)
        yield one


class Read(HTMLParser):
    """A page, read strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.inside.get(where, self.texts).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        """What a person reads."""
        return " ".join(" ".join(self.texts).split())


def hostile(at: float) -> dict[str, object]:
    """Hostile text wherever text can come from outside."""
    return {
        "why": (HOSTILE,), "next": (Upcoming(HOSTILE),), "cap_reason": HOSTILE,
        "child_lines": (HOSTILE, "\x1b]0;x\x07"),
        "reports": (Notice(at, HOSTILE, HOSTILE),), "faults": (Notice(at, HOSTILE, HOSTILE, 2),),
    }  # fmt: skip


# --- as text ---


def test_the_page_without_javascript_has_everything_but_the_curves(server: Shown) -> None:
    answer = server.get("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = Read(answer.body).text
    for wanted in (
        "Ready", "in flight of 8 at most", "Cap 8", "the best that was found", "Acked 441", INFO.model, INFO.node,
        "GeneralError", "8 min ago", "task refused: the request has 9000 tokens", "(4 times)", INFO.version, *LINES,
    ):  # fmt: skip
        assert " ".join(wanted.split()) in text, wanted


@pytest.mark.parametrize(
    ("fields", "wanted", "tone"),
    [
        ({"intake": "open"}, "Ready 5 tasks in flight of 8 at most: takes tasks as they come.", "good"),
        ({"in_flight": 1, "intake": "full"}, f"Ready 1 task in flight of 8 at most: {INTAKES['full']}.", "good"),
        ({"intake": "held", "fitness": "limited"}, f"at most: {INTAKES['held']}.", "warn"),
        ({"why": ("no broker",)}, "Not ready for 2 min No broker", "bad"),
        ({"why": ("no broker", "no worker")}, "No broker No worker", "bad"),
        ({"state": "starting", "why": ("x",)}, "Starting for 2 min", "warn"),
        ({"state": "draining", "why": ("asked to stop",)}, "Draining for 2 min Asked to stop", "warn"),
        ({"state": "stopping", "why": ("asked to stop",)}, "Stopping for 2 min", "warn"),
        ({"why": ("x",), "next": (Upcoming("a probe", 1e9),)}, "Next: a probe in ", "bad"),
        (
            {"why": ("x",), "next": (Upcoming("a probe", -1.0), Upcoming("that"))},
            "Next: a probe now. Next: that.",
            "bad",
        ),
    ],
)
def test_the_state_is_one_sentence(fields: dict[str, object], wanted: str, tone: str) -> None:
    with shown() as fresh:
        at = time.monotonic() - 130
        fresh.server.update(serving(at, why=() if fields.get("why") else ("before",)))  # so that it changes
        fresh.server.update(serving(at, **fields))
        read = Read(fresh.get("/").body)
    assert wanted in read.text
    assert [each["class"] for _, each in read.elements if "state" in each.get("class", "")] == [f"card state {tone}"]


def test_each_gpu_has_its_figures() -> None:
    gpus = (Gpu("0", "RTX <4090>", 23 << 30, 24 << 30, 87.0, 63.0), Gpu("1", "Old", 1 << 30, 4 << 30))
    with shown() as fresh:
        fresh.server.update(serving(time.monotonic(), gpus=gpus))
        text = Read(fresh.get("/").body).text
    assert "Memory free, GPU 0" in text
    assert "of 24.0 GiB, load 87 %, 63 °C: RTX <4090>" in text
    assert "of 4.0 GiB: Old" in text


def test_a_remote_node_shows_no_local_model() -> None:
    with shown() as fresh:
        fresh.server.update(serving(time.monotonic(), child=""))
        text = Read(fresh.get("/").body).text
    assert "local model" not in text.lower()
    assert "None: nothing was reported to the management node." in text


def test_the_page_loads_nothing_from_elsewhere(server: Shown) -> None:
    for tag, attributes in Read(server.get("/").body).elements:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert attributes.get(name, "data:,") in ("data:,", "/readyz", "/metrics", "/livez"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)


def test_the_security_policy_allows_only_the_pages_own_script_and_style(server: Shown) -> None:
    answer = server.get("/")
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert "*" not in str(policy)
    read = Read(answer.body)
    _, script = read.inside["script"]  # before it: the data, which is not run
    for name, inside in (("script-src", script), ("style-src", "".join(read.inside["style"]))):
        assert policy[name] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def test_text_from_outside_is_escaped(server: Shown) -> None:
    usual = Read(server.get("/").body)
    now = time.monotonic()
    server.server.update(serving(now, **hostile(now)))
    body = server.get("/").body
    read = Read(body)
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in usual.elements} | {"ul", "li"}
    assert "window.harmed = 1</script>" in read.text.replace("\N{ZERO WIDTH SPACE}", "")
    assert "{{data}} {{footer}}" in read.text
    assert not {"\x1b", "\u202e", "\x00", "\x07"} & set(body)
    data, _ = read.inside["script"]
    assert json.loads(data)["cap_reason"].startswith("<script>")


def test_the_page_has_the_figures_of_15_minutes(server: Shown) -> None:
    data = json.loads(Read(server.get("/").body).inside["script"][0])
    names = ("ago_s", "cap", "in_flight", "cpu_percent", "memory_percent", "tokens_per_s")
    assert [len(data[name]) for name in names] == [450] * 6
    assert (data["cpu_high"], data["memory_high"]) == (95.0, 90.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (9e4, "1 d 1 h")],
)
def test_durations_are_written_for_people(seconds: float, words: str) -> None:
    assert page.duration(seconds) == words


# --- in a browser ---


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser of this module's own."""
    path = find()
    if path is None:
        pytest.skip(MISSING)
    with browser(path) as one:
        yield one


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A tab of this test's own."""
    with chromium.tab() as one:
        yield one


def shown_in(tab: Page, server: Shown) -> None:
    """Open the page and wait until it is drawn."""
    tab.open(server.url)
    until(lambda: tab.read("document.querySelectorAll('#curves path.stroke').length") == 4, 30, "four curves")


def test_the_browser_draws_curves_and_refreshes_the_page(server: Shown, tab: Page) -> None:
    tab.look(1120, 900)
    shown_in(tab, server)
    assert tab.read("document.querySelectorAll('#curves path.cap').length") == 1
    points = tab.read("document.querySelector('#curves path.stroke').getAttribute('d')")
    assert len(re.findall("[ML]", points)) == 450
    assert "in flight" in tab.read("document.querySelector('.plot').getAttribute('aria-label')")
    server.server.update(serving(time.monotonic(), why=("no connection to Pulsar",), in_flight=3, cap=4))
    until(lambda: "No connection to Pulsar" in tab.read("document.body.innerText"), 30, "the news on the page")
    assert tab.read("document.querySelector('.now').innerText") == "3 of 4"
    assert tab.read("document.title").startswith("Not ready")
    assert tab.read("document.getElementById('announcement').innerText").startswith("Not ready")  # for screen readers
    assert tab.console == []


def test_text_from_outside_runs_no_script_in_a_browser(server: Shown, tab: Page) -> None:
    now = time.monotonic()
    server.server.update(serving(now, **hostile(now)))
    shown_in(tab, server)
    server.server.update(serving(now + 5, **{**hostile(now), "in_flight": 77}))
    until(lambda: tab.read("document.querySelector('.now').innerText").startswith("77"), 30, "the news on the page")
    assert tab.read("window.harmed") is None
    assert "window.harmed = 1</script>" in tab.read("document.querySelector('#faults').innerText")
    assert tab.read("document.querySelectorAll('img, #faults svg, #model svg').length") == 0
    assert tab.console == []


def test_the_page_says_that_the_node_does_not_answer(server: Shown, tab: Page) -> None:
    shown_in(tab, server)
    assert tab.read("document.getElementById('lost').hidden")
    server.server.close()
    until(lambda: not tab.read("document.getElementById('lost').hidden"), 30, "word that the node is gone")
    assert "has not answered since" in tab.read("document.getElementById('lost').innerText")


def test_curves_can_be_read_with_pointer_and_keys(server: Shown, tab: Page) -> None:
    tab.look(1120, 900)
    shown_in(tab, server)
    box = tab.read("JSON.stringify(document.querySelector('.plot').getBoundingClientRect())")
    x, y, width, height = (json.loads(box)[name] for name in ("x", "y", "width", "height"))
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y + height / 2)
    readout = "document.querySelector('.readout').innerText"
    pointed = r"7:[23]\d min ago: \d in flight, 8 cap"
    until(lambda: re.match(pointed, tab.read(readout)), 30, "the figures under the pointer")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    until(lambda: "dashed: cap" in tab.read(readout), 30, "the legend")
    tab.read("document.querySelector('.plot').focus()")
    for _ in range(3):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
    until(lambda: re.match(r"\d:\d\d min ago: ", tab.read(readout)), 30, "the figures a few points back")


CONTRAST = """(() => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(each => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = element => {
    const color = getComputedStyle(element).backgroundColor;
    return color.startsWith("rgba(0, 0, 0, 0") ? paper(element.parentElement) : color;
  };
  const ratios = [...document.querySelectorAll("main *")].filter(each => each.innerText?.trim()).map(each => {
    const [a, b] = [light(getComputedStyle(each).color), light(paper(each))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
  return Math.min(...ratios);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("why", [(), ("no broker",)], ids=["ready", "not ready"])
def test_the_page_is_readable_in_light_and_dark_mode(
    server: Shown, tab: Page, scheme: str, why: tuple[str, ...]
) -> None:
    now = time.monotonic()
    server.server.update(serving(now, why=why, faults=(Notice(now, "task_ended", "fault", 3),)))
    tab.look(1120, 900, scheme)
    shown_in(tab, server)
    assert tab.read(CONTRAST) >= 4.5  # WCAG 2, level AA
    paper = tab.read("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(246, 247, 249)") == (scheme == "light")


def test_the_page_fits_a_phone(server: Shown, tab: Page) -> None:
    now = time.monotonic()
    server.server.update(serving(now, **{**hostile(now), "faults": (Notice(now, "x" * 300, "y" * 2000),)}))
    tab.look(360, 640)
    shown_in(tab, server)
    assert tab.read("document.documentElement.scrollWidth") == 360


def test_the_page_works_with_scripts_disabled(server: Shown, tab: Page) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(server.url)
    until(lambda: "The curves need JavaScript" in tab.read("document.body.innerText"), 30, "the page")
    server.server.update(serving(time.monotonic(), why=("no connection to Pulsar",)))
    until(lambda: "No connection to Pulsar" in tab.read("document.body.innerText"), 30, "the news on the page")
