"""The page: as text, which is checked everywhere, and in Chromium, where there is one.

Where there is none those tests are left out, and the summary at the end of the run says so and what to install.
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
from supervisor.observability.snapshot import INTAKES, Next, Told
from tests.support.browser import MISSING, Browser, Page, browser, find
from tests.support.status import ABOUT, LINES, Shown, life, serving, shown
from tests.support.wait import until

# What somebody upstream might put into an error's message.
HOSTILE = (
    '<script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">"\'><svg onload=window.harmed=1>'
    "</textarea></pre></script><!-- {{data}} {{footer}} &lt; \u202eevil\x1b[31m\x00 ${window.harmed=1} `"
)
VOID = {"meta", "link", "img", "br"}


@pytest.fixture
def server() -> Iterator[Shown]:
    """A server of this test's own that shows a node's last quarter of an hour."""
    with shown() as one:
        for each in life(time.monotonic() - 5):  # so that what comes now is another point of the curves
            one.server.show(each)
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
    """Everything that may be somebody else's text, hostile."""
    return {
        "why": (HOSTILE,), "next": (Next(HOSTILE),), "cap_reason": HOSTILE, "child_lines": (HOSTILE, "\x1b]0;x\x07"),
        "reports": (Told(at, HOSTILE, HOSTILE),), "faults": (Told(at, HOSTILE, HOSTILE, 2),),
    }  # fmt: skip


# --- as text ---


def test_it_tells_all_without_a_script(server: Shown) -> None:
    answer = server.get("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = Read(answer.body).text
    for wanted in (
        "Ready", "in flight of 8 at most", "Cap 8", "the best that was found", "Acked 441", ABOUT.model, ABOUT.node,
        "GeneralError", "8 min ago", "task refused: the request has 9000 tokens", "(4 times)", ABOUT.version, *LINES,
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
        ({"why": ("x",), "next": (Next("a probe", 1e9),)}, "Next: a probe in ", "bad"),
        ({"why": ("x",), "next": (Next("a probe", -1.0), Next("that"))}, "Next: a probe now. Next: that.", "bad"),
    ],
)
def test_the_state_in_a_sentence(fields: dict[str, object], wanted: str, tone: str) -> None:
    with shown() as fresh:
        at = time.monotonic() - 130
        fresh.server.show(serving(at, why=() if fields.get("why") else ("before",)))  # so that it changes
        fresh.server.show(serving(at, **fields))
        read = Read(fresh.get("/").body)
    assert wanted in read.text
    assert [each["class"] for _, each in read.elements if "state" in each.get("class", "")] == [f"card state {tone}"]


def test_a_remote_node_has_no_model_to_show() -> None:
    with shown() as fresh:
        fresh.server.show(serving(time.monotonic(), child=""))
        text = Read(fresh.get("/").body).text
    assert "local model" not in text.lower()
    assert "None: the management node was told nothing." in text


def test_nothing_comes_from_elsewhere(server: Shown) -> None:
    for tag, attributes in Read(server.get("/").body).elements:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert attributes.get(name, "data:,") in ("data:,", "/readyz", "/metrics", "/livez"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)


def test_the_policy_lets_in_what_the_page_holds_and_nothing_else(server: Shown) -> None:
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


def test_somebody_elses_text_stays_text(server: Shown) -> None:
    usual = Read(server.get("/").body)
    now = time.monotonic()
    server.server.show(serving(now, **hostile(now)))
    body = server.get("/").body
    read = Read(body)
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in usual.elements} | {"ul", "li"}
    assert "window.harmed = 1</script>" in read.text.replace("\N{ZERO WIDTH SPACE}", "")
    assert "{{data}} {{footer}}" in read.text
    assert not {"\x1b", "\u202e", "\x00", "\x07"} & set(body)
    data, _ = read.inside["script"]
    assert json.loads(data)["cap_reason"].startswith("<script>")


def test_the_figures_of_a_quarter_of_an_hour_are_in_it(server: Shown) -> None:
    data = json.loads(Read(server.get("/").body).inside["script"][0])
    names = ("ago_s", "cap", "in_flight", "cpu_percent", "memory_percent", "tokens_per_s")
    assert [len(data[name]) for name in names] == [450] * 6
    assert (data["cpu_high"], data["memory_high"]) == (95.0, 90.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (9e4, "1 d 1 h")],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
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


def test_it_draws_and_keeps_itself_fresh(server: Shown, tab: Page) -> None:
    tab.look(1120, 900)
    shown_in(tab, server)
    assert tab.read("document.querySelectorAll('#curves path.cap').length") == 1
    points = tab.read("document.querySelector('#curves path.stroke').getAttribute('d')")
    assert len(re.findall("[ML]", points)) == 450
    assert "in flight" in tab.read("document.querySelector('.plot').getAttribute('aria-label')")
    server.server.show(serving(time.monotonic(), why=("no connection to Pulsar",), in_flight=3, cap=4))
    until(lambda: "No connection to Pulsar" in tab.read("document.body.innerText"), 30, "the news on the page")
    assert tab.read("document.querySelector('.now').innerText") == "3 of 4"
    assert tab.read("document.title").startswith("Not ready")
    assert tab.read("document.getElementById('said').innerText").startswith("Not ready")  # to who listens
    assert tab.said == []


def test_somebody_elses_text_does_nothing_in_a_browser(server: Shown, tab: Page) -> None:
    now = time.monotonic()
    server.server.show(serving(now, **hostile(now)))
    shown_in(tab, server)
    server.server.show(serving(now + 5, **{**hostile(now), "in_flight": 77}))
    until(lambda: tab.read("document.querySelector('.now').innerText").startswith("77"), 30, "the news on the page")
    assert tab.read("window.harmed") is None
    assert "window.harmed = 1</script>" in tab.read("document.querySelector('#faults').innerText")
    assert tab.read("document.querySelectorAll('img, #faults svg, #model svg').length") == 0
    assert tab.said == []


def test_it_says_when_the_node_is_gone(server: Shown, tab: Page) -> None:
    shown_in(tab, server)
    assert tab.read("document.getElementById('lost').hidden")
    server.server.close()
    until(lambda: not tab.read("document.getElementById('lost').hidden"), 30, "word that the node is gone")
    assert "has not answered since" in tab.read("document.getElementById('lost').innerText")


def test_it_is_operated_by_pointer_and_keys(server: Shown, tab: Page) -> None:
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
def test_it_is_readable_by_day_and_by_night(server: Shown, tab: Page, scheme: str, why: tuple[str, ...]) -> None:
    now = time.monotonic()
    server.server.show(serving(now, why=why, faults=(Told(now, "task_ended", "fault", 3),)))
    tab.look(1120, 900, scheme)
    shown_in(tab, server)
    assert tab.read(CONTRAST) >= 4.5  # WCAG 2, level AA
    paper = tab.read("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(246, 247, 249)") == (scheme == "light")


def test_it_fits_a_telephone(server: Shown, tab: Page) -> None:
    now = time.monotonic()
    server.server.show(serving(now, **{**hostile(now), "faults": (Told(now, "x" * 300, "y" * 2000),)}))
    tab.look(360, 640)
    shown_in(tab, server)
    assert tab.read("document.documentElement.scrollWidth") == 360


def test_it_needs_no_script(server: Shown, tab: Page) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(server.url)
    until(lambda: "The curves need JavaScript" in tab.read("document.body.innerText"), 30, "the page")
    server.server.show(serving(time.monotonic(), why=("no connection to Pulsar",)))
    until(lambda: "No connection to Pulsar" in tab.read("document.body.innerText"), 30, "the news on the page")
