"""What a server of llama.cpp says of a text that is to go on. Where it says nothing, nobody waits for long."""

from __future__ import annotations

import time

from workernode.errors import UpstreamFault
from workernode.protocol import FaultKind
from workernode.upstream import Client, Upstream, prompt_in, tokenize_body, tokens_in

PAUSE = 1.0  # seconds between two questions: the server may be starting
TRIES = 3  # of a question that a server takes, and does not answer


class LlamaCpp:
    """The server, as one stream asks it.

    Args:
        is_own: it is the node's own server, so that it is known to be llama.cpp's, or like it, and to come back.
        deadline: monotonic; the task's.
        client: watched while the server is silent.
    """

    def __init__(self, upstream: Upstream, is_own: bool, deadline: float, client: Client) -> None:
        self._upstream = upstream
        self._is_own = is_own
        self._deadline = deadline
        self._client = client

    def tokens_in(self, text: str) -> int:
        """Return how many tokens a text has; 0 if the server does not tell."""
        return tokens_in(self._answer("tokenize", tokenize_body(text))) or 0

    def continues(self, request: bytes, text: str) -> bool:
        """Return whether the server goes on with a text, and does not begin a new answer behind it: builds from before
        May 2025 and `--no-prefill-assistant` do that.

        Args:
            request: the body of the chat request whose last message is the text.
            text: that message.
        """
        prompt = prompt_in(self._answer("apply-template", request))
        if prompt is None:
            return not self._is_own  # another's address may have no such path; its operator has said what it does
        return prompt.endswith(text)

    def _answer(self, name: str, body: bytes) -> object:
        """Return the JSON of an answer; None if there is none. Only the node's own server is waited for."""
        tries = 0
        while True:
            try:
                return self._upstream.ask_beside(name, body, self._deadline, self._client)
            except UpstreamFault as fault:
                tries += fault.kind is not FaultKind.UNAVAILABLE
            if not self._is_own or tries >= TRIES or time.monotonic() + PAUSE >= self._deadline:
                return None
            self._client.pause(PAUSE)
