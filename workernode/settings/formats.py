"""What the value of a variable may look like, and how its text is parsed: numbers, choices, names, secrets. Pure.

The formats of addresses (URLs, hosts, ports) are in addresses.py.
"""

from __future__ import annotations

import json
import re
import shlex
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import unquote

from workernode.guards import PROTECTED
from workernode.prices import read_prices
from workernode.resume_style import ResumeStyle

# An error message shows a wrong value only up to this length. Every provider's keys are longer, so that a key in the
# wrong variable is not shown.
SHOWN_CHARACTERS = 24
LONGEST_TEXT = 4096  # characters
LONGEST_SECRET = 16384  # characters
LONGEST_GUARD = 64  # characters


@dataclass(frozen=True, slots=True)
class Format:
    """What a variable's text must look like, and the function that parses it."""

    expected: str  # completes the sentence "it must be ...", for example "a whole number from 1 to 64"
    parse: Callable[[str], object]  # a text that is never empty → the value; raises ValueError with what is wrong


def quoted(text: str) -> str:
    """Return a wrong value as an error message may show it."""
    return repr(text) if len(text) <= SHOWN_CHARACTERS else f"a text of {len(text)} characters"


def integer(low: int, high: int, unit: str = "") -> Format:
    """Return the format of a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError(f"is {quoted(text)}, not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"is {text}, out of range")
        return int(text)

    return Format(f"a whole number from {low} to {high}{unit}", parse)


def number(low: float, high: float, unit: str) -> Format:
    """Return the format of a number from `low` to `high`, fractions allowed."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            raise ValueError(f"is {quoted(text)}, not a number")
        if not low <= float(text) <= high:
            raise ValueError(f"is {quoted(text)}, out of range")
        return float(text)

    return Format(f"a number from {low:g} to {high:g} {unit}", parse)


def duration(low: float, high: float) -> Format:
    """Return the format of a time from `low` to `high` seconds, such as 15m; `off` is 0."""

    def parse(text: str) -> float:
        if text.lower() == "off":
            return 0.0
        found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(s|m|h|)", text.lower())
        if found is None:
            raise ValueError(f"is {quoted(text)}, not a time")
        seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
        if not low <= seconds <= high:
            raise ValueError(f"is {quoted(text)}, out of range")
        return seconds

    return Format(f"a time such as 90s, 15m or 2h, from {low:g} to {high:g} seconds, or `off`", parse)


def choice(values: Mapping[str, object], expected: str) -> Format:
    """Return the format of one of several names, in upper or lower case.

    Args:
        values: each name in lower case, with the value that it stands for.
    """

    def parse(text: str) -> object:
        if text.lower() not in values:
            raise ValueError(f"is {quoted(text)}")
        return values[text.lower()]

    return Format(expected, parse)


def matching(pattern: str, expected: str, longest: int) -> Format:
    """Return the format of a text that matches `pattern` as a whole and has at most `longest` characters."""

    def parse(text: str) -> str:
        if len(text) > longest:
            raise ValueError(f"has {len(text)} characters, too many")
        if not re.fullmatch(pattern, text):
            raise ValueError(f"is {quoted(text)}")
        return text

    return Format(f"{expected}, at most {longest} characters", parse)


def _parse_text(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text)} characters, too many")
    if not text.isprintable():  # lone surrogates (bytes that are not UTF-8) are not printable either
        raise ValueError("holds a control character or bytes that are not UTF-8")
    return text


def _parse_command_line(text: str) -> str:
    _parse_text(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be split into words ({error})") from None
    if not words[0]:
        raise ValueError("begins with an empty word")
    return text


def _parse_secret(text: str) -> str:
    # The secret goes into an HTTP header or a broker's handshake. A line end in it would start another header.
    if len(text) > LONGEST_SECRET:
        raise ValueError(f"has {len(text)} characters, too many")
    if text[0] in "'\"" and text[0] == text[-1]:
        raise ValueError("stands in quotes")
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a space, a line end, a control character or a letter outside ASCII")
    return text


# The client sets these itself, or a value of ours would break the request.
_HEADERS_OF_THE_CLIENT = {
    *("accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
}


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile("[!-~]([ -~]*[!-~])?")


def _parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    # No message shows any part of the text: the values are secrets.
    if len(text) > LONGEST_SECRET:
        raise ValueError(f"has {len(text)} characters, too many")
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("is not an object whose values are texts")
    for number, (name, value) in enumerate(headers.items(), start=1):
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"has a name that no header can have (number {number})")
        if name.lower() in _HEADERS_OF_THE_CLIENT:
            raise ValueError(f"sets {name}, which the node sets itself")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"has a value that is empty or no printable ASCII (number {number})")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("has a name twice")
    return tuple(headers.items())


def _parse_otlp_headers(text: str) -> str:
    """Return the text itself: OpenTelemetry's library reads it, but would log a wrong header with its secret."""
    for number, header in enumerate(_parse_text(text).split(","), start=1):
        name, is_there, value = header.partition("=")
        if not is_there or not _HEADER_NAME.fullmatch(name.strip()):
            raise ValueError(f"has no name and `=` where they must be (number {number})")
        if not _HEADER_VALUE.fullmatch(unquote(value.strip())):
            raise ValueError(f"has a value that is empty or no printable ASCII (number {number})")
    return text


MOST_GUARDS = 12  # names in one variable: all of them fit into a billing record
_GUARD = re.compile(r"[A-Za-z0-9_-]{1,48}(\.[A-Za-z0-9_-]{1,48}){0,3}")


def _guard_path(name: str) -> tuple[str, ...]:
    """A dotted name in a chat request, in its parts."""
    if len(name) > LONGEST_GUARD or not _GUARD.fullmatch(name):
        raise ValueError(f"has {quoted(name)}, not a name such as metadata.team")
    path = tuple(name.split("."))
    if path[0] in PROTECTED:
        raise ValueError(f"has {quoted(name)}: {', '.join(PROTECTED)} cannot be changed")
    return path


def _parse_request_set(text: str) -> tuple[tuple[tuple[str, ...], object], ...]:
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text)} characters, too many")
    from workernode.strict_json import dumps, read_object  # late: `--version` works without any package

    try:
        members = read_object(text.encode())
        dumps(members)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read: {error}") from None
    if not 0 < len(members) <= MOST_GUARDS:
        raise ValueError(f"has {len(members)} members")
    paths = [_guard_path(name) for name in members]
    for path in paths:
        if any(path != other and path == other[: len(path)] for other in paths):
            raise ValueError(f"has {quoted('.'.join(path))} and a member of it")
    return tuple(zip(paths, members.values(), strict=True))


def _parse_request_strip(text: str) -> tuple[tuple[str, ...], ...]:
    names = [name for name in re.split(r"[,\s]+", text) if name]
    if not 0 < len(names) <= MOST_GUARDS:
        raise ValueError(f"has {len(names)} names")
    return tuple(_guard_path(name) for name in names)


def _parse_oauth2(text: str) -> str:
    try:
        value = json.loads(_parse_text(text))
    except ValueError:
        raise ValueError("is no JSON") from None
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError("is no JSON object whose values are texts")
    for name in ("issuer_url", "private_key"):
        if name not in value:
            raise ValueError(f"has no {name}")
    # The Pulsar library prints the key itself, and what a data: URL holds where it cannot read it.
    key = value["private_key"]
    if key.startswith("data:") and not _holds_credentials(key):
        raise ValueError("has a private_key in a data: URL that is not as Pulsar wants it")
    if not key.startswith(("/", "file:/", "data:")):
        raise ValueError("has a private_key that is no absolute path")
    return text


def _holds_credentials(url: str) -> bool:
    """Return whether the Pulsar library can read this data: URL: JSON in base64, with client_id and client_secret."""
    start, _, coded = url.partition(",")
    if start != "data:application/json;base64":
        return False
    try:
        credentials = json.loads(b64decode(coded, validate=True))
    except (ValueError, RecursionError):
        return False
    names = ("client_id", "client_secret")
    return isinstance(credentials, dict) and all(isinstance(credentials.get(name), str) for name in names)


def _parse_tokenizer(path: str) -> str:
    if find_spec("tokenizers") is None:
        raise ValueError("needs the extra `tokenizer`: pip install 'workernode[tokenizer]'")
    try:
        with open(_parse_text(path), "rb") as opened:
            start = opened.read(1)
    except OSError as error:
        raise ValueError(f"names a file that cannot be read ({error.strerror})") from None
    if start != b"{":
        raise ValueError("names a file that is no tokenizer.json")
    return path


def _parse_model(name: str) -> str:
    if "/" in name:  # Pulsar takes what stands before a slash for tenant and namespace, or refuses the name
        raise ValueError("holds a slash, which a Pulsar topic name cannot (upstream's own name goes to UPSTREAM_MODEL)")
    if re.search(r"-partition-[0-9]+$", name):
        raise ValueError("ends as Pulsar names the parts of a partitioned topic (-partition-0)")
    # Pulsar itself takes any letter. But autoscaling asks for the backlog over HTTP, with the topic's name in the URL's
    # path: there '+', '%', '?', '#' and ';' lead to another topic or to none (seen on 4.0.8).
    return str(matching(r"[A-Za-z0-9._:@=~-]+", "", 200).parse(name))


NODE_TYPE = choice({"remote": "remote", "api": "remote", "local": "local"}, "`remote` or `local`")
SWITCH = choice({"true": True, "1": True, "false": False, "0": False}, "`true` or `false`")
LOG_FORMAT = choice({"json": "json", "text": "text"}, "`json` or `text`")
STREAM_RESUME = choice(
    {each.value: each for each in ResumeStyle}, "`off`, `llamacpp`, `vllm` (SGLang too) or `prefix` (Mistral, DeepSeek)"
)
TEXT = Format(f"printable text, at most {LONGEST_TEXT} characters", _parse_text)
COMMAND_LINE = Format("a command line whose quotes are closed", _parse_command_line)
SECRET = Format("the key alone on one line, without quotes and without `Bearer`", _parse_secret)
REQUEST_SET = Format(
    f'a JSON object of 1 to {MOST_GUARDS} dotted names and values, such as {{"metadata.team": "a"}}', _parse_request_set
)
REQUEST_STRIP = Format(f"1 to {MOST_GUARDS} dotted names, commas between", _parse_request_strip)
HEADERS = Format('a JSON object of names and texts, such as {"X-Team": "research"}', _parse_headers)
OTLP_HEADERS = Format("name=value, commas between, with %20 for a space", _parse_otlp_headers)
PATH = Format(f"the path of a file, at most {LONGEST_TEXT} characters", _parse_text)
PRICES = Format("the path of a JSON or TOML file of prices (docs/record.md)", read_prices)
TOKENIZER = Format("the path of a model's tokenizer.json (docs/record.md)", _parse_tokenizer)
MODEL_NAME = Format("letters, digits and . _ : @ = ~ - only, at most 200 characters", _parse_model)
TOPIC = matching(
    r"(persistent://[A-Za-z0-9_=:.-]+/[A-Za-z0-9_=:.-]+/)?[A-Za-z0-9._:@=~-]+",
    "a topic's name, or persistent://tenant/namespace/name",
    400,
)
PULSAR_NAMESPACE = matching(r"[A-Za-z0-9_=:.-]+/[A-Za-z0-9_=:.-]+", "tenant/namespace", 200)
OAUTH2 = Format(
    "a JSON object with issuer_url and private_key (an absolute path, or data:application/json;base64,... with "
    "client_id and client_secret), mostly with audience and scope",
    _parse_oauth2,
)
OBJECT_NAME = matching(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a Kubernetes name: lower case letters, digits, - and .", 253)
NAMESPACE = matching(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "a Kubernetes namespace: lower case letters, digits and -", 63)
SHA256 = matching(r"[0-9a-fA-F]{64}", "64 hexadecimal digits", 64)
