"""Who holds which task after the messages of the topic."""

from __future__ import annotations

import pytest

from supervisor.claims.table import ClaimMessage, ClaimState, ClaimTable, decode, encode


def table_of(*messages: ClaimMessage) -> ClaimTable:
    """Return the table of a reader that has read these messages, one each second."""
    table = ClaimTable()
    for second, message in enumerate(messages):
        table.apply(message, float(second))
    return table


def holder(table: ClaimTable, request_id: str = "r") -> str | None:
    """Return the node that holds a task."""
    claim = table.get(request_id)
    return None if claim is None else claim.holder


def state(table: ClaimTable, request_id: str = "r") -> ClaimState | None:
    """Return how far the holder of a task has come."""
    claim = table.get(request_id)
    return None if claim is None else claim.state


TAKEN = ClaimMessage("a", taken=["r"])
BEGUN = ClaimMessage("a", begun=["r"])
ENDED = ClaimMessage("a", ended=["r"])
RELEASED = ClaimMessage("a", released=["r"])
WITHDRAWN = ClaimMessage("a", withdrawn=["r"])
RECORDED = ClaimMessage("a", recorded=["r"])
UNENDED = ClaimMessage("a", unended=["r"])
SUSPICION = ClaimMessage("b", suspects=["a"])
TAKE_OVER = ClaimMessage("b", takes=[("r", "a")])
SUSPICION_OF_C = ClaimMessage("a", suspects=["c"])
TAKEN_OVER = ClaimMessage("a", takes=[("r", "c")])


def test_the_first_claim_of_a_task_wins() -> None:
    assert holder(table_of(TAKEN, ClaimMessage("b", taken=["r"]))) == "a"


def test_a_task_that_nobody_has_claimed_has_no_holder() -> None:
    assert table_of(ClaimMessage("a", taken=["other"])).get("r") is None


@pytest.mark.parametrize("message", [BEGUN, ENDED])
def test_a_stream_that_begins_or_ends_claims_a_task_that_nobody_holds(message: ClaimMessage) -> None:
    assert holder(table_of(message, ClaimMessage("b", taken=["r"]))) == "a"


def test_the_holder_brings_its_claim_from_taken_to_begun_to_ended() -> None:
    table = ClaimTable()
    seen = []
    for message in (TAKEN, BEGUN, ENDED):
        table.apply(message, 0.0)
        seen.append(state(table))
    assert seen == [ClaimState.TAKEN, ClaimState.BEGUN, ClaimState.ENDED]


OTHERS = [ClaimMessage("b", begun=["r"]), ClaimMessage("b", ended=["r"]), ClaimMessage("b", released=["r"])]


@pytest.mark.parametrize("before", [[TAKEN, BEGUN], [ClaimMessage("c", taken=["r"]), SUSPICION_OF_C, TAKEN_OVER]])
def test_a_node_that_does_not_hold_a_task_does_not_change_it(before: list[ClaimMessage]) -> None:
    table = table_of(*before)
    was = state(table)
    for message in OTHERS:
        table.apply(message, 9.0)
    assert (holder(table), state(table)) == ("a", was)


@pytest.mark.parametrize(("message", "reached"), [(OTHERS[0], ClaimState.BEGUN), (OTHERS[1], ClaimState.ENDED)])
def test_who_has_begun_a_task_holds_it_although_another_node_had_claimed_it_before(
    message: ClaimMessage, reached: ClaimState
) -> None:
    """That node was killed at once; this one got the message so soon after that it did not read the claims."""
    table = table_of(TAKEN, ClaimMessage("b", taken=["r"]), message)
    assert (holder(table), state(table)) == ("b", reached)


@pytest.mark.parametrize("given_back", [RELEASED, ClaimMessage("a", withdrawn=["r"])])
def test_a_beginning_that_is_reported_late_changes_nothing_once_the_task_was_given_back(
    given_back: ClaimMessage,
) -> None:
    table = table_of(TAKEN, given_back, ClaimMessage("c", taken=["r"]), BEGUN)
    assert (holder(table), state(table)) == ("c", ClaimState.TAKEN)


def test_a_task_that_was_given_back_is_known_to_have_been_at_a_node() -> None:
    table = table_of(TAKEN, WITHDRAWN, ClaimMessage("b", taken=["r"]))
    claim = table.get("r")
    assert claim is not None
    assert claim.was_given_back
    assert not claim.supersedes


def test_an_ended_task_stays_ended() -> None:
    """The library may store a message a second time when its receipt is lost."""
    assert state(table_of(TAKEN, BEGUN, ENDED, BEGUN, RELEASED, TAKEN)) is ClaimState.ENDED


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="nobody has claimed it"),
        pytest.param([TAKEN, BEGUN, ENDED], id="its node"),
        pytest.param([TAKEN, SUSPICION, TAKE_OVER], id="a node that comes back after another has taken over"),
        pytest.param([TAKEN, WITHDRAWN], id="given back"),
        pytest.param([ClaimMessage("b", taken=["r"])], id="another node has claimed it, too"),
    ],
)
def test_a_task_whose_record_is_stored_is_recorded_whoever_has_claimed_it(before: list[ClaimMessage]) -> None:
    claim = table_of(*before, RECORDED).get("r")
    assert claim is not None
    assert claim.is_recorded


def test_the_end_of_a_stream_is_no_record() -> None:
    claim = table_of(TAKEN, BEGUN, ENDED).get("r")
    assert claim is not None
    assert not claim.is_recorded


def test_an_ended_task_that_is_taken_over_stays_ended() -> None:
    claim = table_of(TAKEN, BEGUN, ENDED, SUSPICION, TAKE_OVER).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.ENDED, "a")


def test_a_message_that_comes_after_a_later_one_of_its_node_shows_nothing() -> None:
    """Its producer was closed before it was stored; the next one has stored it again, and more."""
    table = ClaimTable()
    assert table.apply(ClaimMessage("a", taken=["r"], serial=1), 0.0)
    assert table.apply(ClaimMessage("a", withdrawn=["r"], serial=2), 1.0)
    assert table.apply(ClaimMessage("b", suspects=["a"], serial=1), 2.0)
    assert not table.apply(ClaimMessage("a", taken=["r"], serial=1), 3.0)
    assert holder(table) == ""
    assert table.is_suspected("a", "b")


def test_a_message_that_is_stored_twice_is_a_sign_of_life_and_no_more() -> None:
    table = ClaimTable()
    message = ClaimMessage("a", taken=["r"], suspects=["b"], serial=1)
    assert table.apply(message, 0.0)
    table.apply(ClaimMessage("b", suspects=["a"], serial=1), 1.0)
    assert table.apply(message, 2.0)
    assert not table.is_suspected("a", "b")
    assert not table.is_suspected("b", "a"), "b has given a sign of life since"


def test_a_released_task_belongs_to_the_next_that_claims_it() -> None:
    assert holder(table_of(TAKEN, RELEASED, ClaimMessage("b", taken=["r"]))) == "b"


def test_who_claims_a_begun_stream_that_was_given_back_knows_that_it_has_begun() -> None:
    table = table_of(TAKEN, BEGUN, RELEASED)
    assert (holder(table), state(table)) == ("", ClaimState.BEGUN)
    table.apply(ClaimMessage("b", taken=["r"]), 0.0)
    assert (holder(table), state(table)) == ("b", ClaimState.BEGUN)


def test_a_claim_is_remembered_from_its_last_change_on() -> None:
    table = ClaimTable()
    table.apply(TAKEN, 0.0)
    table.apply(BEGUN, 50.0)
    table.forget_before(50.0)
    assert state(table) is ClaimState.BEGUN


def test_a_task_is_taken_over_from_a_node_that_was_suspected_before_and_has_been_silent_since() -> None:
    table = table_of(TAKEN, SUSPICION, TAKE_OVER)
    claim = table.get("r")
    assert claim is not None
    assert (claim.holder, claim.supersedes, claim.state) == ("b", "a", ClaimState.TAKEN)


def test_who_takes_a_begun_stream_over_knows_that_it_has_begun() -> None:
    assert state(table_of(BEGUN, SUSPICION, TAKE_OVER)) is ClaimState.BEGUN


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([TAKEN, TAKE_OVER], id="nobody has suspected it"),
        pytest.param([TAKEN, ClaimMessage("c", suspects=["a"]), TAKE_OVER], id="only another has suspected it"),
        pytest.param([TAKEN, SUSPICION, ClaimMessage("a"), TAKE_OVER], id="it has given a sign of life since"),
        pytest.param([RECORDED, SUSPICION, TAKE_OVER], id="its record is stored"),
        pytest.param(
            [TAKEN, SUSPICION, ClaimMessage("b", takes=[("r", "c")])], id="the task is not that node's"
        ),
        pytest.param([TAKEN, ClaimMessage("b", suspects=["a"]), ClaimMessage("a", begun=["r"]), TAKE_OVER], id="begun"),
    ],
)  # fmt: skip
def test_a_task_is_not_taken_over(messages: list[ClaimMessage]) -> None:
    assert holder(table_of(*messages)) == "a"


def test_of_two_that_take_a_task_over_the_first_gets_it() -> None:
    both = [SUSPICION, ClaimMessage("c", suspects=["a"])]
    assert holder(table_of(TAKEN, *both, TAKE_OVER, ClaimMessage("c", takes=[("r", "a")]))) == "b"


def test_a_node_that_comes_back_does_not_change_what_was_taken_over() -> None:
    table = table_of(TAKEN, SUSPICION, TAKE_OVER, TAKEN, BEGUN, ENDED, RELEASED)
    assert (holder(table), state(table)) == ("b", ClaimState.TAKEN)


def test_a_suspicion_and_a_take_over_in_one_message_is_valid_in_this_order() -> None:
    """The one who takes over waits for LIFE between them; the table only checks their order."""
    assert holder(table_of(TAKEN, ClaimMessage("b", suspects=["a"], takes=[("r", "a")]))) == "b"


def test_claims_are_forgotten_oldest_first() -> None:
    table = table_of(*(ClaimMessage("a", taken=[each]) for each in "xyz"))
    table.forget_before(2.0)
    assert [table.get(each) is not None for each in "xyz"] == [False, False, True]


def test_a_task_that_was_taken_over_is_kept_as_long_as_a_new_one() -> None:
    table = table_of(TAKEN, ClaimMessage("a", taken=["later"]), SUSPICION, TAKE_OVER)
    table.forget_before(1.5)
    assert (holder(table), holder(table, "later"), len(table)) == ("b", None, 1)


def test_a_reader_forgets_who_suspected_whom_when_a_sign_of_life_comes() -> None:
    table = table_of(TAKEN, SUSPICION)
    assert table.is_suspected("a", "b")
    assert not table.is_suspected("b", "a")
    table.apply(ClaimMessage("a"), 3.0)
    assert not table.is_suspected("a", "b")


def test_a_message_comes_back_as_it_was_published() -> None:
    message = ClaimMessage("a", ["1"], ["2"], ["3"], ["4"], ["6"], ["b"], [("5", "c")], 7, ["8"], ["9"])
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [ClaimMessage("a" * 1025), ClaimMessage("a", taken=["r" * 1025]), ClaimMessage("a", takes=[("r", "b" * 1025)])],
)
def test_a_message_with_a_name_that_no_node_has_is_passed_over(message: ClaimMessage) -> None:
    """What this node would publish about it might be too large for the broker, and nothing after it would be stored."""
    assert decode(encode(message)) is None


def test_a_sign_of_life_is_some_bytes() -> None:
    assert encode(ClaimMessage("a", serial=7)) == b'{"node":"a","serial":7}'


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"taken":["r"]}', b'{"node":1}', b'{"node":"a","taken":"r"}', b"\xff"]
)
def test_what_is_no_message_is_passed_over(data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"node":"\xff"}',
        b'{"node":"a","taken":["\xff"]}',
        b'{"node":"a","new":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
    ids=["a node that is not UTF-8", "a request id that is not UTF-8", "nested too deep"],
)
def test_a_message_of_a_foreign_writer_that_cannot_be_read_is_passed_over(data: bytes) -> None:
    assert decode(data) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert decode(b'{"node":"a","taken":["r"],"new":{"x":1}}') == TAKEN


@pytest.mark.parametrize("before", [[TAKEN], [TAKEN, BEGUN], [TAKEN, BEGUN, ENDED]])
def test_a_task_of_which_nothing_has_left_can_be_withdrawn_whatever_was_announced(before: list[ClaimMessage]) -> None:
    assert (holder(table_of(*before, WITHDRAWN)), state(table_of(*before, WITHDRAWN))) == ("", ClaimState.TAKEN)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([TAKEN, BEGUN, SUSPICION, TAKE_OVER], id="taken over"),
        pytest.param([TAKEN, BEGUN, SUSPICION, TAKE_OVER, ClaimMessage("b", ended=["r"])], id="about to be ended"),
        pytest.param([TAKEN, BEGUN, RELEASED, ClaimMessage("b", taken=["r"])], id="given back before"),
    ],
)
def test_a_stream_that_another_node_had_begun_stays_begun_when_it_is_withdrawn(before: list[ClaimMessage]) -> None:
    """Nothing has left this node, but its client has seen a part: whoever claims it next ends it."""
    table = table_of(*before, ClaimMessage("b", withdrawn=["r"]), ClaimMessage("c", taken=["r"]))
    claim = table.get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("c", ClaimState.BEGUN, "b")


def test_a_task_that_was_taken_over_before_it_had_begun_can_be_withdrawn() -> None:
    table = table_of(
        TAKEN, SUSPICION, TAKE_OVER, ClaimMessage("b", begun=["r"]), ClaimMessage("b", withdrawn=["r"])
    )  # fmt: skip
    assert (holder(table), state(table)) == ("", ClaimState.TAKEN)


@pytest.mark.parametrize("before", [[TAKEN, BEGUN], [TAKEN, BEGUN, ENDED]])
def test_a_stream_whose_end_has_not_left_is_ended_by_whoever_claims_it_next(before: list[ClaimMessage]) -> None:
    claim = table_of(*before, UNENDED, ClaimMessage("b", taken=["r"])).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.BEGUN, "a")


def test_only_the_holder_can_report_that_an_end_has_not_left() -> None:
    claim = table_of(TAKEN, BEGUN, ENDED, ClaimMessage("b", unended=["r"])).get("r")
    assert claim is not None
    assert (claim.holder, claim.state) == ("a", ClaimState.ENDED)


def test_an_end_that_is_stored_twice_stays_unended() -> None:
    """The library stores again what it has no receipt for, in order."""
    claim = table_of(TAKEN, BEGUN, ENDED, UNENDED, ENDED, UNENDED).get("r")
    assert claim is not None
    assert (claim.holder, claim.state) == ("", ClaimState.BEGUN)


def test_a_node_that_begins_a_task_which_another_had_claimed_and_gave_back_holds_it() -> None:
    """It did not read the claims, because the message was new; its own claim came while the other still held it."""
    messages = [TAKEN, ClaimMessage("b", taken=["r"]), WITHDRAWN, ClaimMessage("b", begun=["r"])]
    table = table_of(*messages)
    assert (holder(table), state(table)) == ("b", ClaimState.BEGUN)
    table = table_of(*messages, ClaimMessage("b", ended=["r"]), ClaimMessage("c", taken=["r"]))
    assert (holder(table), state(table)) == ("b", ClaimState.ENDED)


def test_a_task_that_comes_back_to_the_node_that_has_not_ended_it_stays_begun() -> None:
    """A node that stops takes and withdraws it at once, and all of it may be sent in one message."""
    message = ClaimMessage("a", taken=["r"], ended=["r"], unended=["r"], withdrawn=["r"])
    claim = table_of(TAKEN, BEGUN, message, ClaimMessage("b", taken=["r"])).get("r")
    assert claim is not None
    assert (claim.holder, claim.state, claim.supersedes) == ("b", ClaimState.BEGUN, "a")


def test_only_the_holder_can_withdraw_a_task() -> None:
    assert holder(table_of(TAKEN, ClaimMessage("b", withdrawn=["r"]))) == "a"


def test_a_claim_that_its_holder_publishes_again_is_kept_for_longer() -> None:
    table = ClaimTable()
    table.apply(ENDED, 0.0)
    table.apply(ClaimMessage("b", taken=["other"]), 0.0)
    table.apply(ClaimMessage("a", taken=["r"], ended=["r"]), 90.0)
    table.apply(ClaimMessage("c", taken=["other"]), 90.0)  # it is not the holder
    table.forget_before(50.0)
    assert (holder(table), state(table)) == ("a", ClaimState.ENDED)
    assert holder(table, "other") is None
