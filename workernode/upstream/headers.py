"""The headers of every request to upstream: those of the client, the key, and the operator's own. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from workernode import __version__
from workernode.protocol import Target

# Azure OpenAI takes its keys in a header of their own; `Authorization` is for Microsoft Entra tokens there
# (learn.microsoft.com, "Azure OpenAI in Foundry Models REST API reference", Authentication).
AZURE_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".openai.azure.us")


def request_headers(target: Target) -> dict[str, str]:
    """Return the headers of a request without those of its body.

    UPSTREAM_HEADERS replaces a header of the same name, whatever its case.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": f"WorkerNode/{__version__}"}
    if target.key:
        host = urlsplit(target.url).hostname or ""
        # A token (eyJ...) is from Microsoft Entra, not a key.
        if host.endswith(AZURE_HOSTS) and not target.key.startswith("eyJ"):
            headers["api-key"] = target.key
        else:
            headers["Authorization"] = f"Bearer {target.key}"
    own = {name.lower() for name, _ in target.headers}
    return {name: value for name, value in headers.items() if name.lower() not in own} | dict(target.headers)
