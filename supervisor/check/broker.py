"""`--check`: is there a broker, does it let us in, may we take tasks and store records? No message is moved by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from supervisor.broker import Access, Answer, NoConnection, Session, Topics, may_claim, may_store, may_take, short_name
from supervisor.check.findings import Check, Context, Finding, Mark

ENTRY_TIME = 5.0  # seconds for the broker to let us in
NAME, TAKES, STORES, CLAIMS = "broker", "broker: tasks", "broker: records", "broker: claims"
# What to do about what the Pulsar library says. A broker that refuses by a policy of the namespace often says nothing,
# and the library reports that it waited in vain (seen on 4.0.8).
ADVICE = {
    "TimeOut": "look whether the namespace's policies forbid it (allowAutoSubscriptionCreation where the subscription "
    "is missing, encryptionRequired); else at the broker's log",
    "TopicTerminated": "delete the topic: it takes no message any more, and a new one is made when it is used",
    "IncompatibleSchema": "delete the topic's schema, or switch schemaValidationEnforced off: nodes send plain bytes",
}
OAUTH2_ADVICE = (
    "correct PULSAR_OAUTH2: private_key names a file that can be read, with a client_id and client_secret that "
    "issuer_url accepts"
)


def checks() -> list[Check]:
    """Return the checks of the broker."""
    return [Check((NAME,), entry), Check((TAKES,), takes), Check((STORES,), stores), Check((CLAIMS,), claims)]


def entry(context: Context) -> Iterator[Finding]:
    """Check whether the broker lets us in."""
    access = Access.of(context.settings)
    try:
        with Session(access, min(ENTRY_TIME, context.left())) as session:
            context.broker_accepts.set_result(True)
            yield Finding(NAME, Mark.OK, f"{named(session.version)} at {session.address} {welcome(access)}")
    except NoConnection as error:
        context.broker_accepts.set_result(False)
        yield Finding(NAME, Mark.FAULT, f"no connection to Pulsar: {error.reason}", error.advice)


def named(version: str) -> str:
    """Return the broker's name and version for people. A broker reports "Pulsar Server4.0.8"."""
    return re.sub(r"^Pulsar Server *", "Pulsar ", version) or "a broker"


def welcome(access: Access) -> str:
    """Return what the broker did to let us in."""
    if access.oauth2:
        return "listens; the next checks try OAuth2"
    if access.token:
        return "takes the token"
    return "takes the certificate" if access.tls_cert else "asks for no token"


def takes(context: Context) -> Iterator[Finding]:
    """Check whether tasks may be taken."""
    what = f"subscription {Topics.of(context.settings).subscription}"
    yield from operation(context, TAKES, f"may take tasks from {what}", what, "consume", may_take)


def stores(context: Context) -> Iterator[Finding]:
    """Check whether records may be stored."""
    what = f"topic {short_name(Topics.of(context.settings).records)}"
    yield from operation(context, STORES, f"may store records in {what}", what, "produce", may_store)


def claims(context: Context) -> Iterator[Finding]:
    """Check whether tasks may be claimed. A node works without, so that a fault is a warning."""
    what = f"topic {short_name(Topics.of(context.settings).claims)}"
    text = f"may claim tasks in {what}"
    for finding in operation(context, CLAIMS, text, what, "produce and consume", may_claim):
        if finding.mark is Mark.FAULT:
            advice = f"{finding.advice}; until then a client may get a text twice when a node or the broker fails"
            yield replace(finding, mark=Mark.WARNING, advice=advice)
        else:
            yield finding


def operation(
    context: Context,
    name: str,
    success: str,
    what: str,
    right: str,
    probe: Callable[[Access, Topics], tuple[Answer, str]],
) -> Iterator[Finding]:
    """Run a probe, and yield what it found.

    Args:
        name: of the check.
        success: the text if it is allowed.
        what: the subscription or topic, in words.
        right: what Pulsar calls the right to it: "consume", "produce", or both.
    """
    if not context.wait_for(context.broker_accepts, False):
        yield Finding(name, Mark.SKIPPED, "skipped: it needs a connection to the broker")
        return
    answer, text = probe(Access.of(context.settings), Topics.of(context.settings))
    match answer:
        case Answer.ALLOWED:
            yield Finding(name, Mark.OK, success)
        case Answer.NO_RIGHT:
            fault = f"the token's role may not {right} on {what}"
            yield Finding(name, Mark.FAULT, fault, f"grant it the right to {right} there")
        case Answer.NO_TOPIC:
            advice = "create it, or allow the broker to create topics (allowAutoTopicCreation)"
            yield Finding(name, Mark.FAULT, f"{what}: its topic does not exist", advice)
        case Answer.BUSY:
            advice = "stop the program that uses it in another way than Shared, or delete the subscription"
            yield Finding(name, Mark.FAULT, f"{what} is in use, and not as a Shared one", advice)
        case Answer.FAILED:
            has_oauth2 = text == "AuthenticationError" and context.settings.pulsar_oauth2
            advice = OAUTH2_ADVICE if has_oauth2 else ADVICE.get(text, "look at the broker's log")
            yield Finding(name, Mark.FAULT, f"{what}: {text}", advice)
