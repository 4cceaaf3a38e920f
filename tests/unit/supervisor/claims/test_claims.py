"""What a node claims, when its streams may be sent, and what several nodes make of random faults."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from supervisor.claims import Claims, Finding
from supervisor.claims.claims import FOREVER, FRAME_AFTER, LEASE, READ_ON, SIGN_INTERVAL, STORED_WITHIN
from supervisor.claims.table import ClaimMessage, decode, encode
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Received
from tests.unit.supervisor.claims.nodes import Violation, World
from workernode.protocol import Granted

FAULT = "Timeout"


class Box:
    """The claims of node "me". What it publishes is stored and read back when the test lets it."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.now = 100.0
        self.sent: dict[int, ClaimMessage] = {}
        self.reading: list[bool] = []
        self.claims = Claims("me", self, 600.0)
        if is_open:
            self.claims.opened(ClaimsOpened())

    def publish_claims(self, number: int, message: bytes) -> None:
        """See Topic."""
        decoded = decode(message)
        assert decoded is not None
        self.sent[number] = decoded

    def read_claims(self, is_wanted: bool) -> None:
        """See Topic."""
        self.reading.append(is_wanted)
        if is_wanted:
            self.claims.read(self.now, ClaimsRead(b"", is_start=True))

    def turn(self, seconds: float = 0.02) -> list[ClaimMessage]:
        """Let time pass and publish what is due; return it."""
        self.now += seconds
        before = len(self.sent)
        self.claims.tick(self.now)
        return list(self.sent.values())[before:]

    def store(self, fault: str = "", read_back: bool = True, seconds: float = 0.0) -> None:
        """Store what was sent and is not stored, after some seconds."""
        self.now += seconds
        for number, message in list(self.sent.items()):
            del self.sent[number]
            self.claims.stored(self.now, ClaimsStored(number, fault))
            if read_back and not fault:
                self.read(message)

    def read(self, *messages: ClaimMessage) -> None:
        """Messages of the topic come."""
        for message in messages:
            self.claims.read(self.now, ClaimsRead(encode(message)))

    def run(self, seconds: float) -> None:
        """Let time pass; everything is stored and read back."""
        until = self.now + seconds
        while self.now < until:
            self.turn(0.5)
            self.store()

    def take(self) -> None:
        """Claim message 1 with request "r"; it is stored at once."""
        self.claims.take(self.now, 1, "r")
        self.turn()
        self.store()

    def ask(self, is_end: bool = False) -> list[Granted]:
        """Ask for a grant, let everything be stored, and return the grants."""
        self.claims.ask(1, "r", is_end)
        self.turn()
        self.store()
        self.turn()
        self.store()
        return self.claims.grants()


GRANTED, DENIED = [Granted(1, True)], [Granted(1, False)]
END_GRANTED = [Granted(1, True, is_end=True)]


def message(published: float = 0.0) -> Received:
    """Return a message of an unknown publisher."""
    return Received(None, (1, 1, 0, -1), b"", published, published, 100.0, 0, publisher="p", stamped=published)


# --- off ---


def test_until_claims_can_be_used_everything_is_granted_at_once() -> None:
    box = Box(is_open=False)
    assert box.claims.is_new(message())
    box.claims.take(box.now, 1, "r")
    box.claims.ask(1, "r", False)
    assert (box.claims.grants(), box.claims.lease, box.claims.next_tick(box.now)) == (GRANTED, FOREVER, FOREVER)
    box.claims.decided(1, "r", True)
    assert box.turn() == []


def test_a_node_that_may_not_use_claims_says_so_once_and_works_without(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(is_open=False)
    for _ in range(2):  # connected, and connected again
        box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    assert [record.__dict__["event"] for record in caplog.records] == ["claims_off"]
    assert not box.claims.is_on


def test_a_right_that_is_taken_away_a_second_time_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(is_open=False)
    for _ in range(2):
        box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
        box.claims.opened(ClaimsOpened())
    assert [record.__dict__["event"] for record in caplog.records] == ["claims_off", "claims_off"]
    assert box.claims.is_on


def test_a_passing_fault_as_the_topic_is_opened_turns_nothing_off() -> None:
    box = Box()
    box.claims.opened(ClaimsOpened("Timeout"))
    assert box.claims.is_on


def test_what_waits_is_granted_and_served_when_the_right_is_taken_away() -> None:
    box = Box()
    box.claims.take(box.now, 1, "r")
    box.claims.ask(1, "r", False)
    box.claims.look_up(box.now, 2, "s", message(), box.now + 600.0)
    box.turn()
    box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    assert box.claims.grants() == GRANTED
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    assert box.claims.lease == FOREVER


def test_a_stream_that_runs_while_the_right_is_away_for_a_moment_may_end() -> None:
    """Its worker asks, because its job was claimed; a denial would have the task run again."""
    box = Box()
    box.take()
    assert box.ask() == GRANTED
    box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    box.claims.opened(ClaimsOpened())
    assert box.ask(is_end=True) == END_GRANTED


# --- the normal way ---


def test_a_claim_is_published_without_being_read() -> None:
    box = Box()
    box.claims.take(box.now, 1, "r")
    assert box.turn() == [ClaimMessage("me", taken=["r"])]
    box.store()
    assert box.ask() == GRANTED
    assert box.ask(is_end=True) == END_GRANTED
    assert box.reading == []


def test_a_stream_waits_until_its_claim_is_stored() -> None:
    box = Box()
    box.take()
    box.claims.ask(1, "r", False)
    assert box.turn() == [ClaimMessage("me", begun=["r"])]
    assert box.claims.grants() == []
    box.store()
    assert box.claims.grants() == GRANTED
    assert box.claims.grants() == [], "it is granted once"


def test_a_task_that_is_claimed_is_not_claimed_again() -> None:
    """It was refused by upstream, kept, and goes to a worker for the second time."""
    box = Box()
    box.take()
    box.claims.take(box.now, 1, "r")
    assert box.turn() == []


def test_a_message_without_request_id_is_not_claimed() -> None:
    box = Box()
    box.claims.take(box.now, 1, "")
    assert box.turn() == []


@pytest.mark.parametrize(
    ("is_begun", "is_ended", "published"),
    [
        pytest.param(False, True, [ClaimMessage("me", ended=["r"])], id="answered"),
        pytest.param(False, False, [ClaimMessage("me", released=["r"])], id="given back"),
    ],
)
def test_the_end_of_a_claim_is_published(is_begun: bool, is_ended: bool, published: list[ClaimMessage]) -> None:
    box = Box()
    box.take()
    if is_begun:
        box.ask()
    box.claims.decided(1, "r", is_ended)
    assert box.turn() == published
    box.store()
    assert box.turn(100.0) == [], "no more signs of life"


def test_a_stream_whose_end_was_granted_is_not_ended_again() -> None:
    box = Box()
    box.take()
    box.ask()
    box.ask(is_end=True)
    box.claims.decided(1, "r", True)
    assert box.turn() == []


def test_a_node_that_holds_claims_gives_signs_of_life() -> None:
    box = Box()
    box.take()
    assert box.turn(SIGN_INTERVAL) == [ClaimMessage("me")]


# --- the lease ---


def test_the_lease_counts_from_the_moment_at_which_a_stored_message_was_sent() -> None:
    box = Box()
    assert box.claims.lease == 0.0
    box.claims.take(box.now, 1, "r")
    box.turn()
    sent_at = box.now
    box.store(seconds=5.0)
    assert box.claims.lease == sent_at + LEASE


def test_an_idle_node_gets_a_lease_with_its_next_claim() -> None:
    box = Box()
    box.take()
    box.claims.decided(1, "r", True)
    box.run(1.0)
    box.turn(1000.0)
    box.take()
    assert box.claims.lease > box.now
    assert box.reading == []


def lapsed() -> Box:
    """Return a node whose stream has begun and whose lease has run out."""
    box = Box()
    box.take()
    box.ask()
    box.turn(LEASE + 1.0)
    assert box.claims.lease <= box.now
    return box


def test_a_node_that_could_store_nothing_for_a_lease_reads_whether_others_have_taken_over() -> None:
    box = lapsed()
    assert box.reading == [True]
    box.store(read_back=False)
    assert box.claims.lease <= box.now, "stored is not enough"


def test_a_node_whose_claims_still_stand_goes_on() -> None:
    box = lapsed()
    box.read(ClaimMessage("me", begun=["r"]))
    box.store()
    assert box.claims.lease > box.now
    assert box.ask(is_end=True) == END_GRANTED


def test_a_node_whose_claim_was_taken_over_sends_nothing_more() -> None:
    box = lapsed()
    box.read(
        ClaimMessage("me", begun=["r"]), ClaimMessage("b", suspects=["me"]), ClaimMessage("b", takes=[("r", "me")])
    )
    box.store()
    assert box.claims.grants() == DENIED
    assert box.ask(is_end=True) == [Granted(1, False, is_end=True)]


def test_what_is_asked_in_doubt_is_answered_after_it() -> None:
    box = lapsed()
    box.claims.ask(1, "r", True)
    assert box.claims.grants() == []
    box.read(ClaimMessage("me", begun=["r"]))
    box.store()
    assert box.claims.grants() == [], "its end is not stored yet"
    box.turn()
    box.store()
    assert box.claims.grants() == END_GRANTED


def test_the_first_of_two_copies_of_a_message_ends_no_doubt_about_what_came_between_them() -> None:
    """The library gave it up, and the broker had stored it; it is sent again, with a mark of its own."""
    box = lapsed()
    first = next(iter(box.sent.values()))
    box.store(FAULT)
    box.turn(60.0)
    box.read(ClaimMessage("me", begun=["r"]), first)
    assert box.claims.lease <= box.now
    box.read(ClaimMessage("b", suspects=["me"]), ClaimMessage("b", takes=[("r", "me")]))
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == DENIED


# --- a claim that was stored late ---


def test_a_claim_that_was_stored_late_is_read_before_its_stream_begins() -> None:
    """Its connection was cut just then; another node has got the message and was the first."""
    box = Box()
    box.claims.take(box.now, 1, "r")
    box.turn()
    box.store(read_back=False, seconds=2 * STORED_WITHIN)
    box.claims.ask(1, "r", False)
    box.turn()
    assert box.reading == [True]
    box.read(ClaimMessage("b", taken=["r"]), ClaimMessage("me", taken=["r"]))
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == DENIED


def test_a_claim_that_was_stored_late_and_was_the_first_lets_its_stream_begin() -> None:
    box = Box()
    box.claims.take(box.now, 1, "r")
    box.turn()
    box.store(read_back=False, seconds=2 * STORED_WITHIN)
    box.claims.ask(1, "r", False)
    box.turn()
    box.read(ClaimMessage("me", taken=["r"]), ClaimMessage("b", taken=["r"]))
    box.store()
    box.turn()
    box.store()
    assert box.claims.grants() == GRANTED


def test_a_claim_that_is_not_stored_yet_lets_no_stream_begin() -> None:
    box = Box()
    box.claims.take(box.now, 1, "r")
    box.claims.ask(1, "r", False)
    (sent,) = box.turn()
    assert (sent.taken, sent.begun) == (["r"], [])


# --- messages that are looked up ---


def test_a_message_is_looked_up_with_a_reader_that_stops_after_a_while() -> None:
    box = Box()
    assert not box.claims.is_new(message())
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    assert box.reading == [True]
    box.store()
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    box.claims.decided(1, "r", True)
    box.run(READ_ON + 2.0)
    assert box.reading == [True, False]
    assert not box.claims._received
    assert not box.claims._own


def test_messages_of_a_reader_that_was_stopped_are_passed_over() -> None:
    box = Box()
    box.read(ClaimMessage("b", taken=["r"]))
    assert len(box.claims._look_ups.table) == 0


def test_a_message_that_is_not_known_is_read_before_its_stream_begins() -> None:
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.turn(20.0)
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.NOT_KNOWN]
    box.claims.ask(1, "r", False)
    box.turn()
    box.read(ClaimMessage("b", taken=["r"]))
    box.store()
    assert box.claims.grants() == DENIED


@pytest.mark.parametrize("before", [ClaimMessage("me", ended=["r"]), ClaimMessage("me", begun=["r"])])
def test_a_message_that_is_not_known_and_that_this_node_had_answered_begins_no_stream(before: ClaimMessage) -> None:
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.turn(20.0)
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.NOT_KNOWN]
    box.claims.ask(1, "r", False)
    box.turn()
    box.read(before)
    box.store()
    assert box.claims.grants() == DENIED


def test_a_node_that_stood_still_after_a_look_up_reads_again_before_its_stream_begins() -> None:
    """Its claim was sent before it stood still; meanwhile another node has taken over."""
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.store()
    box.now += 2 * LEASE
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    box.claims.ask(1, "r", False)
    box.turn()
    box.read(ClaimMessage("b", suspects=["me"]), ClaimMessage("b", takes=[("r", "me")]))
    box.store()
    box.turn()
    box.store()
    assert DENIED[0] in box.claims.grants()


@pytest.mark.parametrize("was_given_back", [True, False])
def test_messages_that_another_node_has_given_back_show_nothing_of_those_behind_them(was_given_back: bool) -> None:
    box = Box()
    for entry in range(3):
        received = Received(None, (1, entry, 0, -1), b"", 0.0, 0.0, box.now, 0, has_waited=True)
        box.claims.is_new(received)
        box.claims.look_up(box.now, entry, f"r{entry}", received, box.now + 100.0)
        if was_given_back:
            box.read(ClaimMessage("b", taken=[f"r{entry}"]), ClaimMessage("b", withdrawn=[f"r{entry}"]))
        box.turn(0.01)
        box.store()
        assert [found.finding for found in box.claims.found(box.now)] == [Finding.SERVE]
    behind = Received(None, (1, 3, 0, -1), b"", 0.0, 0.0, box.now + 0.01, 0)
    assert box.claims.is_new(behind) is not was_given_back


def test_a_message_that_goes_back_before_it_was_decided_is_released() -> None:
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.claims.decided(1, "r", False)
    assert [sent.released for sent in box.turn()] == [["r"]]


def test_a_task_whose_worker_died_before_anything_had_left_is_withdrawn_though_its_stream_was_announced() -> None:
    box = Box()
    box.claims.take(box.now, 1, "r")
    box.turn()
    box.store()
    box.claims.ask(1, "r", False)
    box.turn()
    box.store()
    box.claims.decided(1, "r", False, has_left=False)
    assert [sent.withdrawn for sent in box.turn()] == [["r"]]


def test_a_stream_that_goes_back_after_its_end_was_announced_is_reported_as_unended() -> None:
    """Its worker waited in vain for the grant, so that the end has not left: whoever claims it next ends it."""
    box = Box()
    box.take()
    box.ask()
    box.ask(is_end=True)
    box.claims.decided(1, "r", False)
    assert [sent.unended for sent in box.turn()] == [["r"]]


def test_a_stream_that_this_node_may_have_ended_before_is_not_reported_as_unended() -> None:
    box = Box()
    box.claims.look_up(box.now, 1, "r", message(), box.now + 600.0)
    box.turn()
    box.turn(20.0)
    assert [found.finding for found in box.claims.found(box.now)] == [Finding.NOT_KNOWN]
    box.claims.ask(1, "r", True)
    box.claims.decided(1, "r", False)
    assert [(sent.unended, sent.released) for sent in box.turn()] == [([], ["r"])]


def test_that_a_stream_begins_is_published_when_its_first_frame_may_leave() -> None:
    """A node that is killed sooner leaves a task that had not begun, which another node may take for new."""
    box = Box()
    box.take()
    received_at = box.now
    box.claims.ask(1, "r", False, received_at)
    assert box.turn(FRAME_AFTER / 2) == []
    assert box.claims.next_tick(box.now) == received_at + FRAME_AFTER
    assert [sent.begun for sent in box.turn(FRAME_AFTER)] == [["r"]]
    box.store()
    assert box.claims.grants() == GRANTED


def test_an_end_and_a_beginning_that_is_due_are_published_at_once() -> None:
    box = Box()
    box.take()
    box.claims.ask(1, "r", False, box.now - FRAME_AFTER)
    box.claims.ask(1, "r", True, box.now)
    assert [(sent.begun, sent.ended) for sent in box.turn()] == [(["r"], ["r"])]


def test_a_stream_that_was_decided_before_it_may_begin_is_not_published() -> None:
    """Upstream refused it, and it goes back."""
    box = Box()
    box.take()
    box.claims.ask(1, "r", False, box.now)
    box.claims.decided(1, "r", False, has_left=False)
    assert [(sent.begun, sent.withdrawn) for sent in box.turn(2 * FRAME_AFTER)] == [([], ["r"])]


def test_what_waits_to_be_published_is_granted_when_claims_cannot_be_used_any_more() -> None:
    box = Box()
    box.take()
    box.claims.ask(1, "r", False, box.now)
    box.claims.opened(ClaimsOpened("AuthorizationError", is_refused=True))
    assert box.claims.grants() == GRANTED


# --- random faults ---


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def let_something_happen(world: World, within: float) -> None:
    """Let one fault come at some time, most likely while tasks are published."""
    random = world.random
    node, at = random.choice(world.nodes), random.uniform(0.0, within + 10.0 if within > 10.0 else within)
    match random.choice(["cut", "cut", "pause", "topic", "reader", "kill"]):
        case "cut":
            seconds = random.choice([0.3, 3.0, 8.0, 14.0, 16.0, 30.0, 60.0, 90.0])
            seen_after = min(seconds, random.choice([0.0, 0.0, 1.0, 30.0]))
            world.after(at, lambda: node.cut(seconds, seen_after))
        case "pause":
            seconds = random.choice([1.0, 5.0, 14.0, 16.0, 25.0, 40.0])
            world.after(at, lambda: node.pause(seconds))
        case "topic":
            seconds = random.choice([5.0, 13.0, 20.0])
            world.after(at, lambda: world.take_topic_away(seconds))
        case "reader":
            world.after(at, node.restart_reader)
        case "kill":
            world.after(at, node.kill)


def run_schedule(seed: int, faults: int = 4, tasks: int = 20, within: float = 60.0) -> None:
    """Run tasks and faults at random times, and check what is left at the end.

    Args:
        within: seconds in which the tasks are published.

    Raises:
        Violation: with what happened, in its notes.
    """
    world = World(seed)
    world.run(1.0)
    for number in range(tasks):
        world.after(world.random.uniform(0.0, within), lambda number=number: world.publish(f"r{number}"))
    for _ in range(world.random.randint(1, faults)):
        let_something_happen(world, within)
    try:
        world.run(400.0)
        world.check_end()
    except Violation as violation:
        violation.add_note("\n".join([f"seed {seed}", *world.trace]))
        raise


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("first", range(0, 40, 10))
def test_each_client_gets_one_text_and_one_end_whatever_happens_to_the_nodes(first: int) -> None:
    for seed in range(first, first + 10):
        run_schedule(seed)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("first", range(100000, 100010, 5))
def test_each_client_gets_one_text_and_one_end_from_busy_nodes(first: int) -> None:
    """Nodes that are never idle know by the order of the messages which of them are new."""
    for seed in range(first, first + 5):
        run_schedule(seed, tasks=300, within=3.0)
