"""Asks the OpenAI-compatible upstream (an API, or the local model) and returns its answer, plain or streamed."""

from workernode.upstream.addresses import models_address
from workernode.upstream.answer import read_completion
from workernode.upstream.client import Upstream
from workernode.upstream.faults import RETRYABLE, describe_failure, fault_of_exception, fault_of_response
from workernode.upstream.headers import request_headers
from workernode.upstream.llamacpp_bodies import prompt_in, tokenize_body, tokens_in
from workernode.upstream.request import ChatRequest, Client
from workernode.upstream.streamed_answer import StreamedAnswer
from workernode.upstream.target import upstream_target

__all__ = [
    "RETRYABLE",
    "ChatRequest",
    "Client",
    "StreamedAnswer",
    "Upstream",
    "describe_failure",
    "fault_of_exception",
    "fault_of_response",
    "models_address",
    "prompt_in",
    "read_completion",
    "request_headers",
    "tokenize_body",
    "tokens_in",
    "upstream_target",
]
