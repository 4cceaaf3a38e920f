"""How upstream is asked to go on with a text (STREAM_RESUME). A leaf."""

from __future__ import annotations

from enum import Enum


class ResumeStyle(Enum):
    """The form in which upstream takes the text so far: always as the last message, of the assistant."""

    OFF = "off"  # streams that break end with an error
    LLAMACPP = "llamacpp"  # llama.cpp continues a trailing message of the assistant by itself
    VLLM = "vllm"  # vLLM and SGLang: `continue_final_message: true`, `add_generation_prompt: false`
    PREFIX = "prefix"  # Mistral and DeepSeek: `prefix: true` in the message
