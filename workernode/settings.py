"""Settings from the environment (spec 2): one row a variable, every fault found told in one go, in words.

The rows stand in `Settings`; the documentation and `--help` print the same table (`describe`). Nothing here opens a
connection or looks whether a file is there: that is `--check`. No fault shows a secret, nor any address, because an
address is where a key or a password ends up by mistake.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from dotenv import dotenv_values

# A worker's threads wait for upstream most of the time, so a few processes carry all slots; each costs about 20 MB.
MOST_WORKERS = 4
# One at least beside the one that died: it takes its share of the tasks with it, never all of them.
FEWEST_WORKERS = 2

# A wrong value is shown only up to this length: no provider's keys are as short, should one stand in the wrong place.
SHOWN_CHARACTERS = 24


class SettingsError(Exception):
    """The environment cannot be used. `faults` has a line for each fault: the variable, what is wrong, what is right.
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(self.faults)


class Address(NamedTuple):
    """Where a server listens, as `socket` wants it."""

    host: str  # an IPv6 address stands without its brackets
    port: int


# --- What a value may look like -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """What a variable's text must look like, and how it is read."""

    right: str  # what is right, for a person: "a whole number from 1 to 64"
    read: Callable[[str], object]  # text, never empty → value; raises ValueError saying what is wrong


def shown(text: str) -> str:
    """A wrong value as a fault may show it."""
    return repr(text) if len(text) <= SHOWN_CHARACTERS else f"a text of {len(text)} characters"


def whole(low: int, high: int, unit: str = "") -> Form:
    """A count from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError(f"is {shown(text)}, not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"is {text}, out of range")
        return int(text)

    return Form(f"a whole number from {low} to {high}{unit}", read)


def number(low: float, high: float, unit: str) -> Form:
    """A figure from `low` to `high`, fractions allowed."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            raise ValueError(f"is {shown(text)}, not a number")
        if not low <= float(text) <= high:
            raise ValueError(f"is {shown(text)}, out of range")
        return float(text)

    return Form(f"a number from {low:g} to {high:g} {unit}", read)


def choice(names: Mapping[str, object], right: str) -> Form:
    """One of `names`, in upper or lower case, which stands for its value."""

    def read(text: str) -> object:
        if text.lower() not in names:
            raise ValueError(f"is {shown(text)}")
        return names[text.lower()]

    return Form(right, read)


def matching(pattern: str, right: str, most: int) -> Form:
    """A text of `most` characters at most, all of which matches `pattern`."""

    def read(text: str) -> str:
        if len(text) > most:
            raise ValueError(f"has {len(text)} characters, too many")
        if not re.fullmatch(pattern, text):
            raise ValueError(f"is {shown(text)}")
        return text

    return Form(f"{right}, at most {most} characters", read)


def _read_text(text: str) -> str:
    if len(text) > 4096:
        raise ValueError(f"has {len(text)} characters, too many")
    if not text.isprintable():  # lone surrogates (bytes that are not UTF-8) are not printable either
        raise ValueError("holds a control character or bytes that are not UTF-8")
    return text


def _read_words(text: str) -> str:
    _read_text(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be split into words ({error})") from None
    if not words[0]:
        raise ValueError("begins with an empty word")
    return text


def _read_secret(text: str) -> str:
    # It goes into an HTTP header or a broker's handshake: a newline there would start another header.
    if len(text) > 16384:
        raise ValueError(f"has {len(text)} characters, too many")
    if text[0] in "'\"" and text[0] == text[-1]:
        raise ValueError("stands in quotes")
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a space, a line end, a control character or a letter outside ASCII")
    return text


def _read_model(name: str) -> str:
    if "/" in name:  # Pulsar takes what stands before a slash for tenant and namespace, or refuses the name
        raise ValueError("holds a slash, which a Pulsar topic name cannot (upstream's own name goes to UPSTREAM_MODEL)")
    if re.search(r"-partition-[0-9]+$", name):
        raise ValueError("ends as Pulsar names the parts of a partitioned topic (-partition-0)")
    # Pulsar itself takes any letter. But autoscaling asks for the backlog over HTTP, with the topic's name in the URL's
    # path: there '+', '%', '?', '#' and ';' lead to another topic or to none (seen on 4.0.8).
    return str(matching(r"[A-Za-z0-9._:@=~-]+", "", 200).read(name))


def _split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of an http(s) address that holds no credentials."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a space, a line end, a control character or a letter outside ASCII")
    try:
        url = urlsplit(text)
        port_is_wrong = url.port == 0
    except ValueError:
        raise ValueError("has a host or a port that cannot be read") from None
    if url.scheme not in schemes or not text.lower().startswith(f"{url.scheme}://"):
        raise ValueError(f"starts with none of {', '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in url.netloc:
        raise ValueError("holds credentials before the host")
    if port_is_wrong or not _is_host(url.hostname or ""):
        raise ValueError("has a host or a port that cannot be read")
    return url


def _is_host(name: str) -> bool:
    """Whether it is a host's name or an IP address, an IPv6 address without brackets."""
    if ":" in name:
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            return False
        return True
    return len(name) <= 253 and bool(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", name))


# A path that already says where the API begins: it ends in a version (/v1, /v1beta), holds one and ends in /openai or
# /openapi (Gemini, Vertex AI, Cloudflare), or names a deployment (Azure).
_API_BASE = re.compile(r".*/v[0-9]+[a-z0-9]*(/(.*/)?open(ai|api))?|.*/deployments/[^/]+")
_OTHER_SERVICE = re.compile(r".*/(completions|responses|embeddings|models|chat)")


def chat_address(text: str) -> str:
    """The full chat completions address for an API_URL in any of its three forms; the query string is kept.

    The rule: a path that ends in `/chat/completions` is kept; one that says where the API begins (`_API_BASE`) gets
    `/chat/completions`; any other gets `/v1/chat/completions`. Trailing slashes do not count.

    Raises:
        ValueError: it is no such address; the text says why and does not show it.
    """
    url = _split_url(text, ("http", "https"))
    if url.fragment:
        raise ValueError("holds a '#' part, which is never sent")
    path = url.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        if _OTHER_SERVICE.fullmatch(path):
            raise ValueError("is the address of another service than chat completions")
        path += "/chat/completions" if _API_BASE.fullmatch(path) else "/v1/chat/completions"
    return url._replace(path=path).geturl()


def _read_download_url(text: str) -> str:
    return _split_url(text, ("http", "https")).geturl()


def _read_pulsar_url(text: str) -> str:
    """Pulsar's service URL: several brokers may stand in it, with commas between them."""
    scheme, mark, brokers = text.rstrip("/").partition("://")
    if not mark or scheme.lower() not in ("pulsar", "pulsar+ssl"):
        raise ValueError("starts with neither pulsar:// nor pulsar+ssl://")
    if "@" in brokers:
        raise ValueError("holds credentials before the host")
    for broker in brokers.split(","):
        host, colon, port = broker.partition(":")
        # No IPv6 address: pulsar-client 3.13 refuses one, with and without brackets.
        if not _is_host(host) or (colon and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535)):
            raise ValueError("has a host or a port that cannot be read")
    return f"{scheme.lower()}://{brokers}"


def _read_status_addr(text: str) -> Address | None:
    if text.lower() == "off":
        return None
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not _is_host(host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"is {shown(text)}")
    return Address(host, int(port))


def _read_hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host for host in re.split(r"[,\s]+", text.lower()) if host)
    for host in hosts:
        if not re.fullmatch(r"[a-z0-9_.:*?\[\]!-]+", host) or host.count(":") == 1:
            raise ValueError(f"holds {shown(host)}")
    return hosts


NODE_TYPE = choice({"remote": "remote", "api": "remote", "local": "local"}, "`remote` or `local`")
SWITCH = choice({"true": True, "1": True, "false": False, "0": False}, "`true` or `false`")
LOG_FORMAT = choice({"json": "json", "text": "text"}, "`json` or `text`")
TEXT = Form("printable text, at most 4096 characters", _read_text)
WORDS = Form("a command line whose quotes are closed", _read_words)
SECRET = Form("the key alone on one line, without quotes and without `Bearer`", _read_secret)
MODEL_NAME = Form("letters, digits and . _ : @ = ~ - only, at most 200 characters", _read_model)
CHAT_ADDRESS = Form("http(s)://host[:port], with or without /v1, or the full .../chat/completions", chat_address)
DOWNLOAD_URL = Form("http(s)://host[:port]/path without credentials", _read_download_url)
PULSAR_URL = Form("pulsar://host:6650 or pulsar+ssl://host:6651, commas between several hosts", _read_pulsar_url)
STATUS_ADDR = Form("host:port, [IPv6]:port or `off`", _read_status_addr)
HOSTS = Form("hosts or patterns of hosts (*.example.com) without scheme and port, commas between", _read_hosts)
TOPIC = matching(
    r"(persistent://[A-Za-z0-9_=:.-]+/[A-Za-z0-9_=:.-]+/)?[A-Za-z0-9._:@=~-]+",
    "a topic's name, or persistent://tenant/namespace/name",
    400,
)
OBJECT_NAME = matching(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a Kubernetes name: lower case letters, digits, - and .", 253)
NAMESPACE = matching(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "a Kubernetes namespace: lower case letters, digits and -", 63)
SHA256 = matching(r"[0-9a-fA-F]{64}", "64 hexadecimal digits", 64)


# --- The table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: all that is known of a variable but its name, which is the field's in upper case."""

    form: Form
    meaning: str
    default: str | None = None  # as a person would write it; None: the field is `unset`
    unset: object = ""  # the field's value when nothing is set and there is no default
    told: str = "none"  # what the table says for the default where there is none
    only: str = ""  # the NODE_TYPE that reads it; any other takes the default, whatever is set
    required: bool = False
    secret: bool = False


def row(form: Form, meaning: str, default: str | None = None, **more: Any) -> dict[str, Variable]:
    """The metadata of a field of `Settings`."""
    return {"variable": Variable(form, meaning, default, **more)}


SECONDS = "seconds"
PERCENT = "percent"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """What the node was told, one field a variable. Only `load` makes one. A text that is not set is ""."""

    node_type: str = field(metadata=row(NODE_TYPE, "`remote`: an API answers; `local`: a model here", required=True))
    model_name: str = field(metadata=row(MODEL_NAME, "the model served: decides topic and subscription", required=True))
    api_url: str = field(metadata=row(CHAT_ADDRESS, "upstream's address", required=True, only="remote"))
    api_key: str = field(metadata=row(SECRET, "upstream's key", required=True, only="remote", secret=True))
    upstream_model: str = field(metadata=row(TEXT, "the model name sent upstream instead of the task's"))
    max_process_num: int = field(
        metadata=row(whole(1, 4096), "requests handled at once: the ceiling of the dynamic cap", "128")
    )
    worker_processes: int = field(
        metadata=row(whole(1, 64), "worker processes, never more than MAX_PROCESS_NUM", unset=0, told="by CPU count")
    )
    pulsar_url: str = field(metadata=row(PULSAR_URL, "the broker", required=True))
    pulsar_token: str = field(metadata=row(SECRET, "the broker's token", secret=True))
    res_topic_name: str = field(metadata=row(TOPIC, "where the billing records go", "res-topic"))
    debug: bool = field(metadata=row(SWITCH, "the debug log", "false"))
    log_format: str | None = field(
        metadata=row(LOG_FORMAT, "how log lines look", unset=None, told="json; text on a terminal")
    )
    aimodel_name: str = field(metadata=row(OBJECT_NAME, "the AIModel that reports are about"))
    aimodel_namespace: str = field(metadata=row(NAMESPACE, "the AIModel's namespace", "default"))
    task_timeout: float = field(
        metadata=row(number(1, 86400, SECONDS), "after it, counted from publishing, nobody waits for the answer", "300")
    )
    connect_timeout: float = field(metadata=row(number(0.1, 300, SECONDS), "to connect to upstream", "5"))
    read_timeout: float = field(metadata=row(number(0.1, 3600, SECONDS), "upstream's longest silence", "120"))
    max_redeliveries: int = field(metadata=row(whole(0, 100), "naks of a task before the client gets the error", "3"))
    nak_delay: float = field(metadata=row(number(0, 600, SECONDS), "before a refused task is handed out again", "1"))
    drain_timeout: float = field(
        metadata=row(number(0, 3600, SECONDS), "that SIGTERM leaves to tasks in flight", "30")
    )
    status_addr: Address | None = field(
        metadata=row(STATUS_ADDR, "where /livez, /readyz and /metrics are", "127.0.0.1:9464")
    )
    local_command: str = field(metadata=row(WORDS, "what starts the local model server", "./local.sh", only="local"))
    local_port: int = field(metadata=row(whole(0, 65535), "its port; 0: a free one", "0", only="local"))
    # 4, because a larger model on a CPU gains little beyond, and every slot takes its share of the context's memory.
    local_parallel: int = field(metadata=row(whole(1, 256), "its slots", "4", only="local"))
    local_ctx: int = field(
        metadata=row(whole(256, 10_000_000, " tokens"), "context, shared out among the slots", "16384", only="local")
    )
    local_threads: int = field(metadata=row(whole(0, 1024), "its threads; 0: it chooses", "0", only="local"))
    local_extra_args: str = field(metadata=row(WORDS, "more arguments for it", only="local"))
    llamafile: str = field(metadata=row(TEXT, "path of the llamafile to run", only="local"))
    llamafile_url: str = field(metadata=row(DOWNLOAD_URL, "where to get it, if it is not there", only="local"))
    llamafile_sha256: str = field(metadata=row(SHA256, "the checksum of what is downloaded", only="local"))
    cpu_high: float = field(metadata=row(number(1, 100, PERCENT), "CPU at which the cap may come down", "95"))
    memory_high: float = field(metadata=row(number(1, 100, PERCENT), "memory at which the cap comes down", "90"))
    sample_interval: float = field(metadata=row(number(0.05, 60, SECONDS), "between two looks at CPU and memory", "1"))
    reply_hosts: tuple[str, ...] = field(
        metadata=row(HOSTS, "the only hosts that answers go to", unset=(), told="any host")
    )

    @property
    def topic(self) -> str:
        """Where the model's tasks come from (spec 1.1)."""
        return f"model-{self.model_name}"

    @property
    def subscription(self) -> str:
        """The subscription that all nodes of the model share, and that autoscaling reads (spec 1.1)."""
        return f"{self.topic}-subscription"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log line, record or report may hold: the keys, and those in API_URL's query string."""
        query = parse_qsl(urlsplit(self.api_url).query)
        in_query = (value for name, value in query if re.search("key|token|secret|sig|code|auth", name.lower()))
        return tuple(secret for secret in (self.api_key, self.pulsar_token, *in_query) if secret)

    def __repr__(self) -> str:
        def told(name: str) -> str:
            value = getattr(self, name)
            if VARIABLES[name.upper()].secret and value:
                return "'***'"
            return repr(re.sub(r"\?.*", "?***", value) if isinstance(value, str) else value)  # a query may hold a key

        return f"Settings({', '.join(f'{each.name}={told(each.name)}' for each in fields(self))})"


VARIABLES: dict[str, Variable] = {each.name.upper(): each.metadata["variable"] for each in fields(Settings)}


def describe() -> list[tuple[str, str, str]]:
    """The table for people: (variable, default, meaning with what is right), in the order of spec 2."""
    return [
        (name, _told_default(variable), f"{variable.meaning} ({variable.form.right})")
        for name, variable in VARIABLES.items()
    ]


def _told_default(variable: Variable) -> str:
    if variable.required:
        return f"required for {variable.only}" if variable.only else "required"
    return variable.told if variable.default is None else variable.default


# --- Reading --------------------------------------------------------------------------------------------------------


def read_environment(environ: Mapping[str, str], dotenv_path: str | Path) -> dict[str, str]:
    """`environ`, with what it lacks filled in from the `.env` file; an empty text counts as lacking and is left out.

    Values are taken as they stand: a `$` in a key is a `$`. No such file is no fault.

    Raises:
        SettingsError: the file is there and cannot be read.
    """
    try:
        from_file = dotenv_values(dotenv_path, interpolate=False, encoding="utf-8-sig")  # -sig: editors on Windows
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError((f"{dotenv_path} cannot be read ({why}); make it readable, or remove it",)) from None
    merged = {name: value for name, value in from_file.items() if value}
    merged.update({name: value for name, value in environ.items() if value})
    return merged


def load(environ: Mapping[str, str]) -> Settings:
    """The settings that `environ` holds. Space around a value does not count: secrets made from files end in a newline.

    Raises:
        SettingsError: with every fault there is.
    """
    texts = {name: environ.get(name, "").strip() for name in VARIABLES}
    secrets = [texts[name] for name, variable in VARIABLES.items() if variable.secret and texts[name]]
    node_type = _node_type(texts["NODE_TYPE"])
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, variable in VARIABLES.items():
        ours = variable.only in ("", node_type)
        text = texts[name] if ours else ""
        try:
            if variable.required and ours and not text:
                raise ValueError("is not set")
            values[name.lower()] = _value(variable, text)
        except ValueError as error:
            leaks = any(secret in text for secret in secrets)
            wrong = "is wrong (not shown: it holds a secret)" if leaks and not variable.secret else error
            faults.append(f"{name} {wrong}; right is {variable.form.right}")
    if faults:
        raise SettingsError(tuple(faults))
    workers = values["worker_processes"] or max(FEWEST_WORKERS, min(_cpus(), MOST_WORKERS))
    values["worker_processes"] = min(workers, values["max_process_num"])  # a worker without a slot is of no use
    return Settings(**values)


def _value(variable: Variable, text: str) -> object:
    text = text or variable.default or ""
    return variable.form.read(text) if text else variable.unset


def _node_type(text: str) -> str:
    """Whose variables are read. "" where NODE_TYPE is wrong: then only what holds for both kinds can be judged."""
    try:
        return str(NODE_TYPE.read(text))
    except ValueError:
        return ""


def _cpus() -> int:
    """How many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
