"""`--check` of a remote node: name, connection, TLS, key and model of upstream, asked for its list of models.

Nothing is billed, and the connection is made as the workers make it: the same proxy and authorities, no redirect.
"""

from __future__ import annotations

import difflib
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPException

from supervisor.check.clock import note_clock
from supervisor.check.findings import Check, Context, Finding, Mark
from supervisor.upstream import FaultMessages, ListAnswer, ModelList, listed_models
from workernode.errors import UpstreamFault
from workernode.net.errors import ProxyRefused
from workernode.protocol import FaultKind
from workernode.settings import Settings
from workernode.upstream import describe_failure, fault_of_response

ADDRESS, KEY, MODEL = "upstream", "upstream: key", "upstream: model"
NO_LIST = (404, 405, 501)
CHECK_URL = "check API_URL"
CA_ADVICE = "set UPSTREAM_CA to a file with its authority, or add it to the system's; or correct API_URL"


# No answer came: the connection failed, or it is no HTTP.
NO_ANSWER = (OSError, HTTPException, ValueError)


def checks() -> list[Check]:
    """Return the checks of this module."""
    return [Check((ADDRESS, KEY, MODEL), check_upstream)]


def check_upstream(context: Context) -> Iterator[Finding]:
    """Ask for the list of models, and report what the answer shows about address, key and model."""
    settings = context.settings
    try:
        models = ModelList(settings)
    except OSError as error:
        text = f"the authorities in {error.filename} cannot be used ({error.strerror})"
        yield Finding(ADDRESS, Mark.FAULT, text, "correct UPSTREAM_CA or REQUESTS_CA_BUNDLE")
        return
    proxy = f", through the proxy {models.proxy.host}:{models.proxy.port}" if models.proxy else ""
    origin = f"{models.address.scheme}://{models.address.netloc}"
    started, asked_at = time.monotonic(), time.time()
    try:
        answer = models.ask(max(0.1, context.left() - 1))
    except NO_ANSWER as error:
        yield through_proxy(proxy, error) if proxy else unreachable(origin, models.address.hostname or "", error)
        return
    took = (time.monotonic() - started) * 1000
    note_clock(context, "upstream", answer.headers.get("date"), asked_at)
    if answer.status == 407:  # of the proxy; no server may answer so
        yield through_proxy(proxy, ProxyRefused(answer.status))
        return
    if answer.status >= 500 or 300 <= answer.status < 400:
        yield failing(origin, answer)
        return
    yield Finding(ADDRESS, Mark.OK, f"{origin} answers (in {took:.0f} ms{proxy})")
    if answer.status in NO_LIST:
        text = f"not known: it has no list of models ({answer.status}), and other questions cost money"
        yield from (Finding(name, Mark.SKIPPED, text) for name in (KEY, MODEL))
    elif answer.status != 200:
        yield refused(settings, fault_of_response(answer.status, answer.headers, answer.body, is_own_model=True))
    else:
        yield accepted(context, models)
        yield listed(settings, answer.body)


def through_proxy(proxy: str, error: Exception) -> Finding:
    """Why no answer came through a proxy."""
    why = str(error) if isinstance(error, ProxyRefused) else describe_failure(error)
    advice = "check HTTPS_PROXY (HTTP_PROXY) with its user and password; NO_PROXY exempts a host from it"
    if isinstance(error, ssl.SSLCertVerificationError):
        why, advice = f"its certificate is not trusted: {error.verify_message}", CA_ADVICE
    return Finding(ADDRESS, Mark.FAULT, f"no answer{proxy} ({why})", advice)


def unreachable(origin: str, host: str, error: Exception) -> Finding:
    """Why no answer came."""
    match error:
        case socket.gaierror():
            return Finding(ADDRESS, Mark.FAULT, f"{host} has no address", f"{CHECK_URL} and the name service")
        case ssl.SSLCertVerificationError():
            text = f"the certificate of {origin} is not trusted ({error.verify_message})"
            return Finding(ADDRESS, Mark.FAULT, text, CA_ADVICE)
        case ssl.SSLError():
            return Finding(ADDRESS, Mark.FAULT, f"no TLS with {origin} ({error.reason})", f"{CHECK_URL}: is it http?")
        case ConnectionRefusedError():
            return Finding(ADDRESS, Mark.FAULT, f"nothing listens at {origin}", f"start it, or {CHECK_URL}")
        case TimeoutError():
            text = f"{origin} cannot be connected to, or does not answer, in time"
            return Finding(ADDRESS, Mark.FAULT, text, f"{CHECK_URL}, and that no firewall is in the way")
        case HTTPException() | ValueError() | ConnectionError():
            text = f"{origin} takes the connection and gives no HTTP answer ({describe_failure(error)})"
            advice = f"{CHECK_URL}: it wants the address of an OpenAI-compatible API"
            return Finding(ADDRESS, Mark.FAULT, text, advice)
        case _:
            text = f"{origin} cannot be reached ({describe_failure(error)})"
            return Finding(ADDRESS, Mark.FAULT, text, f"{CHECK_URL} and the network")


def failing(origin: str, answer: ListAnswer) -> Finding:
    """An answer that shows nothing about key and model."""
    if answer.status < 400:
        advice = f"{CHECK_URL}: the node follows no redirect, because the key would go elsewhere"
        return Finding(ADDRESS, Mark.FAULT, f"{origin} redirects ({answer.status})", advice)
    advice = "nothing to do here, if it passes; otherwise see the provider's status page"
    return Finding(ADDRESS, Mark.FAULT, f"{origin} fails ({answer.status})", advice)


def accepted(context: Context, models: ModelList) -> Finding:
    """The key was not refused. A second request without the key shows whether that means anything."""
    try:
        without = models.ask(max(0.1, context.left() - 1), with_key=False)
    except NO_ANSWER:
        return Finding(KEY, Mark.OK, "it takes the key")
    if without.status == 200:
        text = "not known: it shows its list of models without a key, too, and other questions cost money"
        return Finding(KEY, Mark.SKIPPED, text)
    return Finding(KEY, Mark.OK, "it takes the key, and nobody without one")


def refused(settings: Settings, fault: UpstreamFault) -> Finding:
    """A refusal, in the sentences of the node's own reports."""
    text, _, advice = FaultMessages.of(settings)(fault.info()).partition("; ")
    limited = fault.kind in (FaultKind.RATE_LIMIT, FaultKind.RAMP)
    return Finding(KEY, Mark.WARNING if limited else Mark.FAULT, text, advice)


def listed(settings: Settings, body: bytes) -> Finding:
    """Whether the model is in the list."""
    wanted = settings.upstream_model or settings.model_name
    variable = "UPSTREAM_MODEL" if settings.upstream_model else "MODEL_NAME, or UPSTREAM_MODEL,"
    known = listed_models(body)
    if not known:
        return Finding(MODEL, Mark.WARNING, "its list of models cannot be read or is empty", "send a task to know")
    # Ollama adds a tag (llama3:latest), Google's API a path (models/gemini).
    if any(name == wanted or name.startswith(f"{wanted}:") or name.endswith(f"/{wanted}") for name in known):
        return Finding(MODEL, Mark.OK, f"it serves {wanted}")
    near = difflib.get_close_matches(wanted, known, 3, 0.5)
    advice = f"set {variable} to one that it lists" + (f": {', '.join(near)}" if near else "")
    return Finding(MODEL, Mark.FAULT, f"{wanted} is not among the {len(known)} models that it lists", advice)
