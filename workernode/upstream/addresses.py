"""The addresses of an OpenAI-compatible API beside the one of chat completions. Pure."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def models_address(chat_address: str) -> SplitResult:
    """Return the address of the list of models.

    Args:
        chat_address: the full address of chat completions (settings.api_url). Azure's deployments share one list.
    """
    url = urlsplit(chat_address)
    base = url.path.removesuffix("/chat/completions")
    return url._replace(path=re.sub(r"/deployments/[^/]+$", "", base) + "/models")
