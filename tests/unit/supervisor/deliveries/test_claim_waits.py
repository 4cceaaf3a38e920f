"""Deliveries that another node may have too: what becomes of them, and what their workers are sent."""

from __future__ import annotations

import pytest

from supervisor.claims import Claims
from supervisor.claims.table import ClaimMessage, decode, encode
from supervisor.events import ClaimsOpened, ClaimsRead, ClaimsStored, Stored
from tests.unit.supervisor.dispatcher.effects import SETTINGS, Effects
from workernode.protocol import AnswerState, ClaimAsked, Decision, Granted

LONG = 60.0  # seconds; a node that was silent for so long is gone


class Node(Effects):
    """A dispatcher with claims. What it publishes is stored and read back at its next step."""

    def __init__(self) -> None:
        self.published: dict[int, ClaimMessage] = {}
        self.recorded: list[str] = []  # request ids of which it has published that the record is stored
        self.granted: list[Granted] = []
        super().__init__()
        self.event(ClaimsOpened())

    def publish_claims(self, number: int, message: bytes) -> None:
        """See Broker."""
        decoded = decode(message)
        assert decoded is not None
        self.published[number] = decoded

    def read_claims(self, reach_s: float, _remember_s: float) -> None:
        """See Broker."""
        if reach_s:
            self.event(ClaimsRead(b"", is_start=True))

    def grant(self, index: int, granted: Granted) -> None:
        """See Pool."""
        self.granted.append(granted)

    def event(self, event: ClaimsOpened | ClaimsStored | ClaimsRead) -> None:
        """The broker reports something."""
        self.dispatcher.claims.on_event(self.now, event)

    def read(self, *messages: ClaimMessage) -> None:
        """Messages of the topic come."""
        for message in messages:
            self.event(ClaimsRead(encode(message)))

    def step(self, seconds: float = 0.5) -> None:
        """Let time pass, half a second at a time."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            for number, message in list(self.published.items()):
                del self.published[number]
                self.recorded += message.recorded
                self.event(ClaimsStored(number, ""))
                self.read(message)
            self.dispatcher.tend_claims(self.now)
            self.dispatcher.hand_over()

    def look_up(self, *others: ClaimMessage, redeliveries: int = 1) -> None:
        """Take a message in that may be at another node too, of which these messages tell."""
        self.receive("r", redeliveries=redeliveries)
        self.dispatcher.tend_claims(self.now)
        self.read(*others)
        self.step(1.5)


OTHER_HAS_IT = ClaimMessage("other", taken=["r"])


def test_a_message_that_no_other_node_has_is_run_after_it_was_looked_up() -> None:
    node = Node()
    node.look_up()
    assert [job.is_claimed for job in node.jobs] == [True]
    assert node.jobs[0].supersedes == ""


def test_a_message_that_this_node_gave_back_is_looked_up_however_new_it_seems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node may have had it meanwhile. A part of a batch that comes again here is not counted by the broker."""
    monkeypatch.setattr(Claims, "is_new", lambda claims, received: True)
    node = Node()
    job = node.run("r")
    node.decide(job, Decision.NAK, "taken_over")
    node.stored(job)
    node.look_up(ClaimMessage("other", recorded=["r"]), redeliveries=0)
    assert len(node.jobs) == 1
    assert node.made("ack") == [("ack", "r")]


def test_a_message_that_another_node_works_on_waits_without_a_slot() -> None:
    node = Node()
    node.look_up(OTHER_HAS_IT)
    assert (node.jobs, node.dispatcher.beyond_cap, node.made("ack", "nak")) == ([], 1, [])


def test_a_message_that_another_node_has_answered_is_acked_without_a_record() -> None:
    node = Node()
    node.look_up(ClaimMessage("other", recorded=["r"]))
    assert node.made("ack", "nak", "record") == [("ack", "r")]
    assert (node.jobs, len(node.dispatcher)) == ([], 0)
    assert node.settled_ids == ["r"]  # it does not count as in flight any more


def test_what_a_node_has_answered_that_is_gone_without_a_record_is_acked_once_this_node_has_stored_one() -> None:
    node = Node()
    node.look_up(ClaimMessage("other", ended=["r"]))
    assert node.made("ack", "nak", "record") == []
    node.step(2 * SETTINGS.task_timeout)
    (delivery,) = node.dispatcher._ledger
    assert node.made("ended", "ack", "record") == [("ended", "unrecorded"), ("record", delivery.number)]
    assert delivery.supersedes == "other"
    node.dispatcher.stored(Stored(delivery.number, ""))
    node.step(1.0)
    assert node.made("ack") == [("ack", "r")]
    assert node.recorded == ["r"]


def test_other_nodes_learn_that_a_task_is_answered_when_its_record_is_stored_and_no_sooner() -> None:
    node = Node()
    node.look_up()
    (job,) = node.jobs
    node.decide(job, Decision.ACK, "answered")
    node.step(1.0)
    assert node.recorded == []
    node.stored(job)
    node.step(1.0)
    assert node.recorded == ["r"]


def test_a_task_of_a_node_that_is_gone_is_run_and_names_that_node() -> None:
    node = Node()
    node.look_up(OTHER_HAS_IT)
    node.step(LONG)
    assert [(job.rejection, job.supersedes) for job in node.jobs] == [(None, "other")]


def test_the_client_of_a_begun_stream_of_a_node_that_is_gone_gets_an_error() -> None:
    node = Node()
    node.look_up(ClaimMessage("other", begun=["r"]))
    node.step(LONG)
    (job,) = node.jobs
    assert job.rejection is not None
    assert (job.rejection.status, job.rejection.decision, job.supersedes) == ("broken", Decision.ACK, "other")


def test_a_worker_that_asks_for_its_stream_gets_its_grant() -> None:
    node = Node()
    node.look_up()
    node.dispatcher.claim_asked(ClaimAsked(node.jobs[0].number, is_end=False))
    node.step(1.0)
    assert node.granted == [Granted(node.jobs[0].number, is_granted=True)]


def test_a_question_about_a_delivery_that_is_not_here_any_more_is_passed_over() -> None:
    node = Node()
    node.dispatcher.claim_asked(ClaimAsked(7, is_end=False))
    node.step(1.0)
    assert node.granted == []


@pytest.mark.parametrize("others", [[], [OTHER_HAS_IT]], ids=["looked up", "held"])
def test_what_waits_for_claims_goes_back_when_the_node_drains(others: list[ClaimMessage]) -> None:
    node = Node()
    node.receive("r", redeliveries=1)
    node.dispatcher.tend_claims(node.now)
    if others:
        node.read(*others)
        node.step(1.5)
    node.dispatcher.nak_queued()
    assert node.made("ended") == [("ended", "drained")]
    assert node.dispatcher.claims.waiting() == []


def test_a_message_without_request_id_is_not_looked_up() -> None:
    node = Node()
    node.receive("", redeliveries=1)
    assert node.dispatcher.queued == 1


def test_the_late_answer_to_a_worker_that_was_killed_lets_no_stream_be_ended() -> None:
    """It was about the first frame. That the stream ends is not stored yet."""
    node = Node()
    node.look_up()
    number = node.jobs[0].number
    node.dispatcher.claim_asked(ClaimAsked(number, is_end=False))
    node.dispatcher.tend_claims(node.now)
    jobs = node.dispatcher.decide_rest({number: AnswerState.STARTED})
    node.step()
    assert node.dispatcher.claims.may_end(jobs, at_once=False) is None
    node.step()
    assert node.dispatcher.claims.may_end(jobs, at_once=False) == jobs


@pytest.mark.parametrize(("were_claims_off", "is_stored"), [(False, False), (True, False), (True, True)])
def test_a_stream_is_ended_here_if_no_other_node_can_know_that_it_has_begun(
    were_claims_off: bool, is_stored: bool
) -> None:
    """Claims were off, and the topic is away when the node stops: the next one would send the text again."""
    node = Node()
    node.look_up()
    (job,) = node.jobs
    if were_claims_off:
        node.event(ClaimsOpened("TopicTerminated", is_refused=True))
        node.event(ClaimsOpened())
    if is_stored:
        node.step(1.0)
    jobs = node.dispatcher.decide_rest({job.number: AnswerState.STARTED})
    is_ended = were_claims_off and not is_stored
    assert node.dispatcher.claims.may_end(jobs, at_once=True) == (jobs if is_ended else [])
    assert node.made("ended") == ([] if is_ended else [("ended", "drained")])
