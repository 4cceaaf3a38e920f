"""Why a model server exited: the lines by which that is recognised, and the advice for people."""

from __future__ import annotations

import re

import pytest

from supervisor.model_server.diagnosis import CAUSES, CONFIGURATION, GENERAL, diagnose


@pytest.mark.parametrize(
    ("code", "line", "reason", "advice"),
    [
        # Lines as llama.cpp, llamafile, shells and the dynamic linker write them.
        (1, "couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080", CONFIGURATION, "LOCAL_PORT"),
        (1, "start: couldn't bind HTTP server socket: Address already in use", CONFIGURATION, "LOCAL_PORT"),
        (1, "ggml_aligned_malloc: insufficient memory (attempted to allocate 9216.00 MB)", GENERAL, "LOCAL_CTX"),
        (1, "llama_kv_cache_init: failed to allocate buffer for kv cache", GENERAL, "LOCAL_CTX"),
        (1, "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", GENERAL, "LOCAL_CTX"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", GENERAL, "LOCAL_CTX"),
        (-9, "", GENERAL, "memory"),
        (137, "", GENERAL, "memory"),
        (1, "gguf_init_from_file: invalid magic characters: '<!DO', expected 'GGUF'", CONFIGURATION, "LLAMAFILE"),
        (1, "llama_model_load: error loading model: unknown model architecture: 'qwen9'", CONFIGURATION, "LLAMAFILE"),
        (1, "llama_model_load: error loading model: tensor 'x' data is not within the file bounds, model is corrupted",
         CONFIGURATION, "LLAMAFILE"),
        (1, "local.sh: /m/x.llamafile is not a llamafile: neither a program nor a script.", CONFIGURATION,
         "LLAMAFILE_SHA256"),
        (1, "main: error: unable to load model: failed to load model '/m/x.gguf'", CONFIGURATION, "LLAMAFILE"),
        (-4, "", CONFIGURATION, "AVX"),
        (132, "Illegal instruction (core dumped)", CONFIGURATION, "AVX"),
        (126, "child: 1: exec: /m/x.llamafile: Exec format error", CONFIGURATION, "another processor"),
        (126, "/m/x.llamafile: cannot execute binary file: Exec format error", CONFIGURATION, "another processor"),
        (126, "child: 1: exec: /m/x.llamafile: Permission denied", CONFIGURATION, "chmod +x"),
        (127, "child: 1: exec: ./local.sh: not found", CONFIGURATION, "LOCAL_COMMAND"),
        (1, "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: cudaMalloc failed: out of "
         "memory", GENERAL, "-ngl in LOCAL_EXTRA_ARGS"),
        (1, "CUDA error: out of memory", GENERAL, "-ngl in LOCAL_EXTRA_ARGS"),
        (1, "hipMalloc failed: out of memory", GENERAL, "-ngl in LOCAL_EXTRA_ARGS"),
        (1, "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", GENERAL, "-ngl in LOCAL_EXTRA_ARGS"),
        (1, "llama_kv_cache_init: failed to allocate CUDA0 buffer of size 17179869184", GENERAL, "memory of its GPU"),
        (1, "ggml_aligned_malloc: insufficient memory (attempted to allocate 9000 MB)", GENERAL, "give the node more"),
        (1, "error: unknown argument: --frob", CONFIGURATION, "LOCAL_EXTRA_ARGS"),
        (1, "error: invalid argument: --frob", CONFIGURATION, "LOCAL_EXTRA_ARGS"),
        (1, "local.sh: the checksum is not LLAMAFILE_SHA256: the download has 00ff", CONFIGURATION, "LLAMAFILE_SHA256"),
        (1, "local.sh: the download failed (curl: exit code 6, HTTP status 000); its message is above.", GENERAL,
         "LLAMAFILE_URL"),
        (1, "local.sh: there is no model: no llamafile, and no Python here has the embedded one.", CONFIGURATION,
         "LLAMAFILE"),
        (23, "curl: (23) Failure writing output to destination: No space left on device", GENERAL, "disk"),
        (-11, "", GENERAL, "crashed"),
        (-15, "", GENERAL, "outside the node"),
        (5, "something else", GENERAL, "event model_output"),
        (0, "", GENERAL, "event model_output"),
        (-64, "", GENERAL, "event model_output"),
    ],
)  # fmt: skip
def test_a_known_fault_has_its_reason_and_what_to_do(code: int, line: str, reason: str, advice: str) -> None:
    diagnosis = diagnose(code, ["loading", line] if line else [])
    assert diagnosis.reason == reason
    assert advice in diagnosis.message


def test_only_text_is_quoted() -> None:
    tail = ["model: line 2: syntax error", "\ufffd\x14\ufffdZ\ufffd{\ufffdH\ufffd", "\x00\x01"]
    assert diagnose(2, tail).message.endswith("Its output: model: line 2: syntax error")
    assert "Its output" not in diagnose(2, tail[1:]).message


def test_the_line_that_shows_the_cause_is_quoted() -> None:
    tail = ["a", "error: unknown argument: --frob", "usage: ...", "z"]
    assert diagnose(1, tail).message.endswith("Its output: error: unknown argument: --frob")


def test_output_of_a_server_that_worked_is_not_quoted_when_it_was_killed() -> None:
    assert "Its output" not in diagnose(-9, ["srv log_server_r: request: POST /v1/chat/completions 200"]).message


def test_every_cause_says_what_to_do_and_can_be_found() -> None:
    for cause in CAUSES:
        assert cause.reason in (CONFIGURATION, GENERAL)
        assert cause.advice
        assert cause.pattern or cause.codes
        re.compile(cause.pattern)
