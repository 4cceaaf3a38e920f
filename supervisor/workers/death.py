"""What becomes of a task whose worker died: the row "worker killed" of spec 4, and spec 3. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workernode.errors import broken_error, openai_error
from workernode.protocol import AnswerState, Decision, Rejection, SavedStream
from workernode.resume import MOST_RESUMES

# Workers that may die while they send a client an error, or an answer that is there, whatever MAX_REDELIVERIES is: most
# deaths have another cause, and a client that gets no answer waits for ever.
FEWEST_SENDS = 2
MOST_ALONE = 2  # of those that have no other job, as many deaths show that the sending is their cause
MOST_SHARED = 4  # times as many, where no worker could be emptied for it


@dataclass(frozen=True, slots=True)
class Settled:
    """The task is decided without another worker."""

    decision: Decision
    status: str  # of the record: "answered", "worker_died", "poison", or that of the rejection
    reason: str  # for people


def kills_by_sending(failed_sends: int, failed_alone: int, limit: int) -> bool:
    """Return True if sending a client its rejection, or an answer that is offered again, is what kills workers.

    Args:
        failed_sends: deaths that count, of workers that were sending it, the latest included.
        failed_alone: how many of them had no other job, so that no other task has caused their death.
        limit: MAX_REDELIVERIES.
    """
    return failed_alone >= MOST_ALONE or failed_sends > most_sends(limit) * MOST_SHARED


def most_sends(limit: int) -> int:
    """Return after how many such deaths it is to be sent by a worker that has no other job."""
    return max(limit, FEWEST_SENDS)


def after_death(
    state: AnswerState, rejection: Rejection | None, why: str, *, saved: SavedStream | None = None,
    deaths: int, counts: bool, failed_sends: int, failed_alone: int, limit: int, is_used_up: bool, is_alone: bool,
) -> Settled | Rejection | SavedStream:
    """Decide a task by how much of its answer had left when its worker died.

    Args:
        state: how much of the answer had left.
        rejection: what the worker was to send the client instead of running the task; None: it ran the task.
        why: why the worker died, for people.
        saved: what the client of a stream was sent; None if it is not known, or if the stream cannot go on.
        deaths: deaths of workers that count against this message, this one included (Ledger.deaths).
        counts: this death counts. One that was caused from outside does not: the message is not its cause.
        failed_sends: deaths that count, of workers that were sending the rejection, this one included.
        failed_alone: how many of these workers had no other job.
        limit: MAX_REDELIVERIES.
        is_used_up: the message was delivered as often as it may be.
        is_alone: the worker had no other job, so that no other task has caused its death.

    Returns:
        The decision; or an error that another worker has to send to the client; or the stream that it goes on with.
    """
    reason = f"its worker died: {why}"
    text = f"Its worker process died {deaths} times with this request."
    if state in (AnswerState.ENDING, AnswerState.ENDED):
        # ENDING: the kernel had the end, or was about to get it. It counts as sent: of the two mistakes, a second end
        # would crash the gateway's handler (docs/decisions/0005-answer-state.md).
        if rejection is None:
            return Settled(Decision.ACK, "answered", reason)
        return Settled(rejection.decision, rejection.status, rejection.reason or reason)
    if rejection is not None:
        if kills_by_sending(failed_sends, failed_alone, limit):  # even sending the client an error kills workers
            return Settled(Decision.DEAD_LETTER, "poison", text)
        return rejection
    if state is AnswerState.STARTED:
        if saved is not None and deaths <= MOST_RESUMES:
            going_on = replace(saved, resumes=saved.resumes + counts)
            if saved.is_finished or going_on.resumes <= MOST_RESUMES:
                return going_on
        return Rejection("broken", Decision.ACK, broken_error(f"{reason}."), 0)
    if counts and is_used_up and (is_alone or deaths == 1):
        error = openai_error(f"The request could not be served. {text}", "server_error", "worker_died")
        if is_alone:
            return Rejection("poison", Decision.DEAD_LETTER, error, 0, reason=text)
        return Rejection("gave_up", Decision.ACK, error, 0)  # its last try; those before failed for other reasons
    return Settled(Decision.NAK, "worker_died", reason)
