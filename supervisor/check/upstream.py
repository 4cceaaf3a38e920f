"""`--check` of a remote node: name, connection, TLS, key and model of upstream, asked for its list of models.

Nothing is billed, and the connection is made as the workers make it: no proxy, no redirect, the same authorities.
"""

from __future__ import annotations

import difflib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult

from supervisor.check.clock import note_clock
from supervisor.check.findings import Check, Context, Finding, Mark
from supervisor.fitness.messages import Words
from workernode import __version__
from workernode.errors import UpstreamFault
from workernode.json_access import as_list, member, strings
from workernode.net.http_client import tls_context
from workernode.protocol import FaultKind
from workernode.settings import Settings
from workernode.upstream import fault_of_response, models_address

ADDRESS, KEY, MODEL = "upstream", "upstream: key", "upstream: model"
MOST_BYTES = 8 * 1024 * 1024  # of the list of models
NO_LIST = (404, 405, 501)
CHECK_URL = "check API_URL"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]  # by lower-case name
    body: bytes


def checks() -> list[Check]:
    """Return the checks of this module."""
    return [Check((ADDRESS, KEY, MODEL), look)]


def look(context: Context) -> Iterator[Finding]:
    """Connect, ask, judge."""
    settings = context.settings
    url = models_address(settings.api_url)
    origin = f"{url.scheme}://{url.netloc}"
    started = time.monotonic()
    try:
        connection = connect(url, settings.connect_timeout)
    except OSError as error:
        yield unreachable(origin, url.hostname or "", error)
        return
    took = (time.monotonic() - started) * 1000
    secure = f", {connection.version()}" if isinstance(connection, ssl.SSLSocket) else ""
    try:
        answer = ask(connection, url, settings.api_key, context)
    except (OSError, http.client.HTTPException) as error:
        said = f"{origin} takes the connection and does not answer ({type(error).__name__})"
        yield Finding(ADDRESS, Mark.FAULT, said, f"{CHECK_URL}: it wants the address of an OpenAI-compatible API")
        return
    if answer.status >= 500 or 300 <= answer.status < 400:
        yield failing(origin, answer)
        return
    yield Finding(ADDRESS, Mark.OK, f"{origin} answers (connected in {took:.0f} ms{secure})")
    if answer.status in NO_LIST:
        said = f"not known: it has no list of models ({answer.status}), and other questions cost money"
        yield from (Finding(name, Mark.SKIPPED, said) for name in (KEY, MODEL))
    elif answer.status != 200:
        fault = fault_of_response(answer.status, answer.headers, answer.body, is_own_model=True)
        yield refused(settings, origin, fault)
    else:
        yield taken(context, url)
        yield listed(settings, answer.body)


def connect(url: SplitResult, timeout: float) -> socket.socket:
    """A connection as the workers make it.

    Raises:
        OSError: there is none.
    """
    secure, host = url.scheme == "https", url.hostname or ""
    connection = socket.create_connection((host, url.port or (443 if secure else 80)), timeout)
    if not secure:
        return connection
    try:
        return tls_context().wrap_socket(connection, server_hostname=host)
    except OSError:
        connection.close()
        raise


def ask(connection: socket.socket, url: SplitResult, key: str, context: Context) -> Answer:
    """Ask for the list of models, and close the connection. The answer's date goes to the clocks.

    Raises:
        OSError, http.client.HTTPException: no answer, or none in HTTP.
    """
    connection.settimeout(max(0.1, context.left() - 1))
    client = http.client.HTTPConnection(url.hostname or "", url.port)
    client.sock = connection
    headers = {"Accept-Encoding": "identity", "User-Agent": f"WorkerNode/{__version__}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    asked_at = time.time()
    try:
        client.request("GET", url.path + (f"?{url.query}" if url.query else ""), headers=headers)
        answer = client.getresponse()
        note_clock(context, "upstream", answer.headers.get("Date"), asked_at)
        told = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, told, answer.read(MOST_BYTES))
    finally:
        connection.close()


def unreachable(origin: str, host: str, error: OSError) -> Finding:
    """Why there is no connection."""
    match error:
        case socket.gaierror():
            return Finding(ADDRESS, Mark.FAULT, f"{host} has no address", f"{CHECK_URL} and the name service")
        case ssl.SSLCertVerificationError():
            said = f"the certificate of {origin} is not trusted ({error.verify_message})"
            return Finding(ADDRESS, Mark.FAULT, said, "add its authority to the system's, or correct API_URL")
        case ssl.SSLError():
            return Finding(ADDRESS, Mark.FAULT, f"no TLS with {origin} ({error.reason})", f"{CHECK_URL}: is it http?")
        case ConnectionRefusedError():
            return Finding(ADDRESS, Mark.FAULT, f"nothing listens at {origin}", f"start it, or {CHECK_URL}")
        case TimeoutError():
            said = f"{origin} cannot be connected to within CONNECT_TIMEOUT"
            return Finding(ADDRESS, Mark.FAULT, said, f"{CHECK_URL}, and that no firewall is in the way")
        case _:
            said = f"{origin} cannot be reached ({error.strerror or type(error).__name__})"
            return Finding(ADDRESS, Mark.FAULT, said, f"{CHECK_URL} and the network")


def failing(origin: str, answer: Answer) -> Finding:
    """An answer that says nothing of key and model."""
    if answer.status < 400:
        advice = f"{CHECK_URL}: the node follows no redirect, because the key would go elsewhere"
        return Finding(ADDRESS, Mark.FAULT, f"{origin} redirects ({answer.status})", advice)
    advice = "nothing to do here, if it passes; otherwise look at the provider's status page"
    return Finding(ADDRESS, Mark.FAULT, f"{origin} fails ({answer.status})", advice)


def taken(context: Context, url: SplitResult) -> Finding:
    """The key was not refused; whether that says anything shows what happens without one."""
    try:
        without = ask(connect(url, context.settings.connect_timeout), url, "", context)
    except (OSError, http.client.HTTPException):
        return Finding(KEY, Mark.OK, "it takes the key")
    if without.status == 200:
        return Finding(
            KEY,
            Mark.SKIPPED,
            "not known: it shows its list of models without a key, too, and other questions cost money",
        )
    return Finding(KEY, Mark.OK, "it takes the key, and nobody without one")


def refused(settings: Settings, origin: str, fault: UpstreamFault) -> Finding:
    """A refusal, in the words of the node's own reports."""
    wanted = settings.upstream_model or settings.model_name
    aimodel = f"{settings.aimodel_namespace}/{settings.aimodel_name}" if settings.aimodel_name else ""
    said, _, advice = Words(origin, wanted, aimodel)(fault.info()).partition("; ")
    limited = fault.kind in (FaultKind.RATE_LIMIT, FaultKind.RAMP)
    return Finding(KEY, Mark.WARNING if limited else Mark.FAULT, said, advice)


def listed(settings: Settings, body: bytes) -> Finding:
    """Whether the model is in the list."""
    wanted = settings.upstream_model or settings.model_name
    variable = "UPSTREAM_MODEL" if settings.upstream_model else "MODEL_NAME, or UPSTREAM_MODEL,"
    try:
        known = strings(member(entry, "id") for entry in as_list(member(json.loads(body), "data")))
    except (ValueError, RecursionError):
        known = ()
    if not known:
        return Finding(MODEL, Mark.WARNING, "its list of models cannot be read or is empty", "send a task to know")
    # Ollama adds a tag (llama3:latest), Google's API a path (models/gemini).
    if any(name == wanted or name.startswith(f"{wanted}:") or name.endswith(f"/{wanted}") for name in known):
        return Finding(MODEL, Mark.OK, f"it serves {wanted}")
    near = difflib.get_close_matches(wanted, known, 3, 0.5)
    advice = f"set {variable} to one that it lists" + (f": {', '.join(near)}" if near else "")
    return Finding(MODEL, Mark.FAULT, f"{wanted} is not among the {len(known)} models that it lists", advice)
