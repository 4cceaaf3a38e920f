"""How the Pulsar client library is set up here, once for node, `--check` and `workernode-records`."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import pulsar

from supervisor.broker.access import Access
from supervisor.broker.trust import trust_file

CONNECTION_TIMEOUT = 5000  # milliseconds for a TCP connection

_thread = threading.local()  # its content is a part of a thread's Python state, and is lost with it


def open_client(
    access: Access, operation_timeout: int, library: Any = pulsar, token: Callable[[], str] | None = None
) -> Any:
    """Return a client. It connects when it is first used.

    Args:
        operation_timeout: seconds after which the library gives up an operation such as a subscription.
        library: the module `pulsar`, or a fake of it.
        token: returns the token of the moment, for a client that outlives it; called from threads of the library.
    """
    certificate = {}
    if access.tls_cert:
        key = access.tls_key or access.tls_cert
        certificate = {"tls_certificate_file_path": access.tls_cert, "tls_private_key_file_path": key}
    return library.Client(
        access.url,
        authentication=authentication(access, library, token),
        tls_trust_certs_file_path=trust_file(access) if access.url.startswith("pulsar+ssl:") else None,
        **certificate,
        operation_timeout_seconds=operation_timeout,
        connection_timeout_ms=CONNECTION_TIMEOUT,
        # Without a logger the library writes to standard output, which is ours; a Python logger can deadlock with it.
        logger=library.FileLogger(library.LoggerLevel.Error, os.devnull),
        tls_validate_hostname=True,
    )


def authentication(access: Access, library: Any = pulsar, token: Callable[[], str] | None = None) -> Any:
    """Return how the client authenticates itself, or None if it does not. The arguments are those of `open_client`."""
    if access.oauth2:
        return library.AuthenticationOauth2(access.oauth2)
    if access.token:
        return library.AuthenticationToken(token or access.current_token)
    if access.tls_cert:
        return library.AuthenticationTLS(access.tls_cert, access.tls_key or access.tls_cert)
    return None


def subscribe_without_taking(client: Any, topic: str, subscription: str, library: Any = pulsar) -> None:
    """Subscribe as a node does, and unsubscribe again, without being given a message.

    It proves that we may consume from this very subscription, and makes the subscription where there is none, at the
    earliest message. The receiver queue of 0 asks the broker for no message (seen on 4.0.8).

    Raises:
        pulsar.PulsarException: what the broker or the library has against it.
    """
    how = {
        "consumer_type": library.ConsumerType.Shared,
        "initial_position": library.InitialPosition.Earliest,
        "receiver_queue_size": 0,
    }
    try:
        consumer = client.subscribe(topic, subscription, **how)
    except library.InvalidConfiguration:  # a partitioned topic allows no queue of 0; its first partition does
        consumer = client.subscribe(f"{topic}-partition-0", subscription, **how)
    consumer.close()


def keep_thread_state() -> None:
    """Let a thread of the library keep its Python state. To be called in every callback.

    The interpreter makes such a state for each callback and frees it afterwards, because the thread is not Python's:
    memory is mapped and unmapped for each message. A state that was asked for once more than it was given back stays
    until the process ends (PyGILState_Ensure in Python's C API).
    """
    if not hasattr(_thread, "is_kept"):
        ctypes.pythonapi.PyGILState_Ensure()
        _thread.is_kept = True


def describe(error: Exception) -> str:
    """Return a failure of the library as a text for people: its kind, and its message where it adds something."""
    kind, text = type(error).__name__, str(error).removeprefix("Pulsar error: ")
    return f"{kind} ({text})" if text and text != kind else kind


def close_client(client: Any, library: Any = pulsar) -> None:
    """Close a client, whatever state it is in."""
    try:
        client.close()
    except library.PulsarException:
        pass  # it is unusable or closed already


def run_bounded(action: Callable[[], None], limit: float) -> None:
    """Run an action of the library in a thread, and wait no longer than `limit` seconds for its end.

    A broker that does not answer must not keep a program alive that wants to stop.
    """

    def guarded() -> None:
        try:
            action()
        except pulsar.PulsarException:
            pass  # what was not stored is not acked, and comes again

    thread = threading.Thread(target=guarded, name="broker-close", daemon=True)
    thread.start()
    thread.join(limit)
