"""`--check`: may reports be made (spec 1.3)? One is tried with dryRun=All: the API server judges it and stores nothing.

Trying it tries address, token, namespace and right alike. The operator never sees a dry run (its code was watched at a
real API server), so that the AIModel stays as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import requests

from supervisor.check.clock import note_clock
from supervisor.check.findings import Check, Context, Finding, Mark
from supervisor.report import SERVICE_ACCOUNT
from workernode.settings import Settings

NAME = "kubernetes"
PATIENCE = (3.0, 5.0)  # seconds to connect, and to answer
ROLE = "deploy/kubernetes/account.yaml"


def checks() -> list[Check]:
    """Return the checks of this module."""
    return [Check((NAME,), check_events)]


def check_events(context: Context, account: Path = Path(SERVICE_ACCOUNT)) -> Iterator[Finding]:
    """Check whether the pod's account may create an Event, the form of a report.

    Args:
        account: the folder of the pod's `token` and `ca.crt`.
    """
    settings = context.settings
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
    if not settings.aimodel_name:
        yield Finding(NAME, Mark.OK, "reports go to the log only, because AIMODEL_NAME is not set")
    elif not host:
        text = "reports go to the log only, because this is no pod (KUBERNETES_SERVICE_HOST is not set)"
        yield Finding(NAME, Mark.OK, text)
    elif find_spec("kubernetes") is None:
        yield Finding(NAME, Mark.FAULT, "the kubernetes library is missing", "pip install workernode[kubernetes]")
    else:
        shown = f"[{host}]" if ":" in host else host
        yield try_dry_run(context, f"https://{shown}:{port or 443}", account)


def try_dry_run(context: Context, server: str, account: Path) -> Finding:
    """Ask the API server to create an Event without storing it (dryRun)."""
    settings, asked_at = context.settings, time.time()
    try:
        token = (account / "token").read_text(encoding="ascii").strip()
        with requests.Session() as session:
            session.trust_env = False  # a proxy that is set for upstream does not know the cluster
            answer = session.post(
                f"{server}/api/v1/namespaces/{settings.aimodel_namespace}/events",
                params={"dryRun": "All"},
                json=event(settings),
                headers={"Authorization": f"Bearer {token}"},
                verify=str(account / "ca.crt"),
                timeout=PATIENCE,
                allow_redirects=False,
            )
    except requests.RequestException as error:
        text = f"the API server at {server} {_failure(error)}"
        return Finding(NAME, Mark.FAULT, text, "check the cluster's network policies")
    except (OSError, ValueError) as error:
        text = f"the pod's service account cannot be used ({error})"
        return Finding(NAME, Mark.FAULT, text, "set automountServiceAccountToken: true")
    note_clock(context, "the API server", answer.headers.get("Date"), asked_at)
    return judge(settings, answer)


def _failure(error: requests.RequestException) -> str:
    """Return what went wrong with a call, in plain words with the server as subject."""
    match error:
        case requests.exceptions.SSLError():
            return "has a certificate that the pod's ca.crt does not trust"
        case requests.Timeout():
            return "did not answer in time"
        case _:
            return "cannot be reached: the connection failed"


def event(settings: Settings) -> dict[str, object]:
    """A report in the shape of report.py's."""
    name, namespace = settings.aimodel_name, settings.aimodel_namespace
    return {
        "metadata": {"generateName": f"{name}-", "namespace": namespace},
        "involvedObject": {"kind": "AIModel", "name": name, "namespace": namespace},
        "type": "Warning",
        "reason": "GeneralError",
        "message": "This is a dry run by --check.",
    }


def judge(settings: Settings, answer: requests.Response) -> Finding:
    """Return what the API server's answer shows about the account."""
    where = f"namespace {settings.aimodel_namespace}"
    match answer.status_code:
        case 200 | 201:
            return Finding(NAME, Mark.OK, f"may report on AIModel {settings.aimodel_name} in {where}")
        case 401:
            return Finding(NAME, Mark.FAULT, "the API server refuses the account's token (401)", "restart the pod")
        case 403:
            text = f"the account may not create events in {where} (403)"
            return Finding(NAME, Mark.FAULT, text, f"give it a Role with create on events, as in {ROLE}")
        case 404:
            return Finding(NAME, Mark.FAULT, f"there is no {where} (404)", "correct AIMODEL_NAMESPACE")
        case status:
            return Finding(NAME, Mark.FAULT, f"the API server answers {status}: {answer.text[:200]}", "see its log")
