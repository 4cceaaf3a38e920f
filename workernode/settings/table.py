"""The table of the environment variables (spec 2): `Settings` has one field a variable, and a field has its row. Pure.

README.md and `--help` print the same table (`describe`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from workernode.guards import Guards
from workernode.net.proxy import parse_proxy_url, proxy_for
from workernode.prices import Prices
from workernode.resume_style import ResumeStyle
from workernode.settings.addresses import CHAT_ADDRESS, HOSTS, HTTP_URL, PULSAR_URL, STATUS_ADDR, Address
from workernode.settings.formats import (
    COMMAND_LINE,
    HEADERS,
    LOG_FORMAT,
    MODEL_NAME,
    NAMESPACE,
    NODE_TYPE,
    OAUTH2,
    OBJECT_NAME,
    OTLP_HEADERS,
    PATH,
    PRICES,
    PULSAR_NAMESPACE,
    REQUEST_SET,
    REQUEST_STRIP,
    SECRET,
    SHA256,
    STREAM_RESUME,
    SWITCH,
    TEXT,
    TOKENIZER,
    TOPIC,
    Format,
    duration,
    integer,
    number,
)

SECONDS = "seconds"
PERCENT = "percent"


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: all that is known of a variable but its name, which is the field's name in upper case."""

    format: Format
    meaning: str
    default: str | None = None  # as a person would write it; None: the field is `unset`
    unset: object = ""  # the field's value when the variable is not set and there is no default
    default_text: str = "none"  # what the table shows as the default where `default` is None
    node_type: str = ""  # the NODE_TYPE that reads it; on any other the default holds, whatever is set. "": both
    required: bool = False
    secret: bool = False


def row(format: Format, meaning: str, default: str | None = None, **more: Any) -> dict[str, Variable]:
    """Return the metadata of a field of `Settings`."""
    return {"variable": Variable(format, meaning, default, **more)}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """The node's settings, one field a variable. Only `load` makes one. A text that is not set is ""."""

    node_type: str = field(
        metadata=row(NODE_TYPE, "`remote`: an API answers; `local`: a model on this machine", required=True)
    )
    model_name: str = field(
        metadata=row(MODEL_NAME, "the model that is served; topic and subscription are named after it", required=True)
    )
    api_url: str = field(metadata=row(CHAT_ADDRESS, "upstream's address", required=True, node_type="remote"))
    api_key: str = field(metadata=row(SECRET, "upstream's key", required=True, node_type="remote", secret=True))
    api_key_file: str = field(
        metadata=row(PATH, "the file that holds API_KEY instead; read again when it changes", node_type="remote")
    )
    upstream_headers: tuple[tuple[str, str], ...] = field(
        metadata=row(HEADERS, "more headers for upstream", unset=(), node_type="remote", secret=True)
    )
    upstream_headers_file: str = field(
        metadata=row(
            PATH, "the file that holds UPSTREAM_HEADERS instead; read again when it changes", node_type="remote"
        )
    )
    http_proxy: str = field(
        metadata=row(
            TEXT,
            "the proxy for an API_URL with http, http://[user:password@]host:port; else ALL_PROXY",
            node_type="remote",
            secret=True,
        )
    )
    https_proxy: str = field(metadata=row(TEXT, "the same for an API_URL with https", node_type="remote", secret=True))
    no_proxy: str = field(
        metadata=row(TEXT, "hosts, domains and networks that need no proxy, commas between", node_type="remote")
    )
    upstream_ca: str = field(
        metadata=row(
            PATH,
            "more authorities for upstream's certificate, in PEM, beside SSL_CERT_FILE and REQUESTS_CA_BUNDLE",
            node_type="remote",
        )
    )
    upstream_model: str = field(metadata=row(TEXT, "the model name sent upstream instead of the task's"))
    request_set: tuple[tuple[tuple[str, ...], object], ...] = field(
        metadata=row(REQUEST_SET, "what is set in each chat request, whatever its client asked for", unset=())
    )
    request_strip: tuple[tuple[str, ...], ...] = field(
        metadata=row(REQUEST_STRIP, "what is taken out of each chat request", unset=())
    )
    max_tokens: int = field(
        metadata=row(
            integer(1, 100_000_000, " tokens"),
            "the longest answer: a ceiling for what clients ask for, and the default",
            unset=0,
        )
    )
    max_process_num: int = field(
        metadata=row(integer(1, 4096), "requests handled at once: the ceiling of the dynamic cap", "128")
    )
    worker_processes: int = field(
        metadata=row(
            integer(1, 64), "worker processes, never more than MAX_PROCESS_NUM", unset=0, default_text="by CPU count"
        )
    )
    pulsar_url: str = field(metadata=row(PULSAR_URL, "the broker", required=True))
    pulsar_token: str = field(metadata=row(SECRET, "the broker's token, or file:PATH", secret=True))
    pulsar_token_file: str = field(
        metadata=row(PATH, "the file that holds PULSAR_TOKEN instead; read again when it changes")
    )
    pulsar_namespace: str = field(
        metadata=row(PULSAR_NAMESPACE, "tenant and namespace of the topics", "public/default")
    )
    pulsar_tls_ca: str = field(
        metadata=row(
            PATH,
            "the authorities that sign the broker's certificate, PEM",
            default_text="the system's and certifi's",
        )
    )
    pulsar_tls_cert: str = field(metadata=row(PATH, "our certificate for the broker (mutual TLS)"))
    pulsar_tls_key: str = field(metadata=row(PATH, "the key of that certificate"))
    pulsar_oauth2: str = field(metadata=row(OAUTH2, "OAuth2 instead of a token", secret=True))
    res_topic_name: str = field(metadata=row(TOPIC, "where the billing records go", "res-topic"))
    prices: Prices | None = field(
        metadata=row(PRICES, "prices by upstream model; the records then hold `cost`", unset=None)
    )
    tokenizer: str = field(
        metadata=row(TOKENIZER, "the model's tokenizer.json: estimates tokens where upstream sends no usage")
    )
    record_salt: str = field(
        metadata=row(SECRET, "makes `client.key_id` of the records from the clients' keys", secret=True)
    )
    otel_exporter_otlp_endpoint: str = field(
        metadata=row(HTTP_URL, "the collector of spans and metrics, OTLP over HTTP; needs the extra `otel`")
    )
    otel_exporter_otlp_traces_endpoint: str = field(
        metadata=row(HTTP_URL, "the whole address for spans, where it is another")
    )
    otel_exporter_otlp_metrics_endpoint: str = field(
        metadata=row(HTTP_URL, "the whole address for metrics, where it is another")
    )
    otel_exporter_otlp_headers: str = field(
        metadata=row(OTLP_HEADERS, "headers for the collector", secret=True)
    )
    debug: bool = field(metadata=row(SWITCH, "the debug log", "false"))
    log_format: str | None = field(
        metadata=row(LOG_FORMAT, "how log lines look", unset=None, default_text="json; text on a terminal")
    )
    aimodel_name: str = field(metadata=row(OBJECT_NAME, "the AIModel that reports are about"))
    aimodel_namespace: str = field(metadata=row(NAMESPACE, "the AIModel's namespace", "default"))
    task_timeout: float = field(
        metadata=row(number(1, 86400, SECONDS), "from publishing until nobody waits for the answer any more", "300")
    )
    connect_timeout: float = field(metadata=row(number(0.1, 300, SECONDS), "to connect to upstream", "5"))
    read_timeout: float = field(metadata=row(number(0.1, 3600, SECONDS), "upstream's longest silence", "120"))
    stream_resume: ResumeStyle | None = field(
        metadata=row(
            STREAM_RESUME,
            "how upstream goes on with a stream that it has broken off",
            unset=None,
            default_text="local: llamacpp; remote: off",
        )
    )
    max_redeliveries: int = field(metadata=row(integer(0, 100), "naks of a task before the client gets the error", "3"))
    nak_delay: float = field(metadata=row(number(0, 600, SECONDS), "until a refused task is handed out again", "1"))
    drain_timeout: float = field(
        metadata=row(number(0, 3600, SECONDS), "for the tasks in flight to finish after SIGTERM", "30")
    )
    status_addr: Address | None = field(
        metadata=row(STATUS_ADDR, "where /livez, /readyz and /metrics are", "127.0.0.1:9464")
    )
    local_command: str = field(
        metadata=row(COMMAND_LINE, "the command that starts the local model server", "./local.sh", node_type="local")
    )
    local_port: int = field(
        metadata=row(integer(0, 65535), "port of the local model server; 0: a free one", "0", node_type="local")
    )
    # 4, because a larger model on a CPU gains little beyond, and every slot takes its share of the context's memory.
    local_parallel: int = field(
        metadata=row(integer(1, 256), "requests that the local model answers at once", "4", node_type="local")
    )
    local_ctx: int = field(
        metadata=row(
            integer(256, 10_000_000, " tokens"),
            "context of the local model, shared by its slots",
            "16384",
            node_type="local",
        )
    )
    local_threads: int = field(
        metadata=row(integer(0, 1024), "threads of the local model; 0: it chooses", "0", node_type="local")
    )
    local_extra_args: str = field(
        metadata=row(COMMAND_LINE, "more arguments for the local model server", node_type="local")
    )
    local_idle_stop: float = field(
        metadata=row(
            duration(0.1, 604_800),
            "without a task for so long the local model is stopped, and started again by the next task",
            "off",
            node_type="local",
        )
    )
    llamafile: str = field(metadata=row(TEXT, "path of the llamafile to run", node_type="local"))
    llamafile_url: str = field(
        metadata=row(HTTP_URL, "where to download the llamafile, if it is not there", node_type="local")
    )
    llamafile_sha256: str = field(metadata=row(SHA256, "checksum of the downloaded llamafile", node_type="local"))
    cpu_high: float = field(metadata=row(number(1, 100, PERCENT), "CPU at which the cap may come down", "95"))
    memory_high: float = field(metadata=row(number(1, 100, PERCENT), "memory at which the cap comes down", "90"))
    sample_interval: float = field(
        metadata=row(number(0.05, 60, SECONDS), "between two measurements of CPU and memory", "1")
    )
    reply_hosts: tuple[str, ...] = field(
        metadata=row(HOSTS, "the only hosts that answers are sent to", unset=(), default_text="any host")
    )

    @property
    def upstream_proxy(self) -> str:
        """The address of the proxy to upstream, with its password; "" to connect directly."""
        proxy = proxy_for(self.api_url, self.http_proxy, self.https_proxy, self.no_proxy)
        return parse_proxy_url(proxy) if proxy else ""

    @property
    def guards(self) -> Guards | None:
        """What the operator changes in chat requests; None: nothing."""
        if not (self.request_set or self.request_strip or self.max_tokens):
            return None
        # OpenAI's newer models refuse max_tokens; others' servers may not know the new name.
        is_openai = urlsplit(self.api_url).hostname == "api.openai.com"
        name = "max_completion_tokens" if is_openai else "max_tokens"
        return Guards(self.request_set, self.request_strip, self.max_tokens, name)

    @property
    def resume_style(self) -> ResumeStyle:
        """How upstream is asked to go on with a stream that it has broken off."""
        default = ResumeStyle.LLAMACPP if self.node_type == "local" else ResumeStyle.OFF
        return self.stream_resume or default

    @property
    def exports_traces(self) -> bool:
        """Whether spans are sent to a collector."""
        return bool(self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint)

    @property
    def exports_metrics(self) -> bool:
        """Whether metrics are sent to a collector."""
        return bool(self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_metrics_endpoint)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no output may hold: the keys, the values of upstream's headers, and keys in API_URL's query string.

        Secrets that were read later, when a file changed, are in workernode/redaction.py.
        """
        query = parse_qsl(urlsplit(self.api_url).query)
        in_query = (value for name, value in query if re.search("key|token|secret|sig|code|auth", name.lower()))
        in_headers = (part for _, value in self.upstream_headers for part in (value, value.split()[-1]))
        in_otlp = (each.partition("=")[2].strip() for each in self.otel_exporter_otlp_headers.split(","))
        in_otlp = (part for value in map(unquote, in_otlp) for part in (value, *value.split()[-1:]))
        ours = (self.api_key, self.pulsar_token, self.pulsar_oauth2, self.record_salt, *self._proxy_passwords())
        return tuple(secret for secret in (*ours, *in_headers, *in_otlp, *in_query) if secret)

    def _proxy_passwords(self) -> Iterator[str]:
        for proxy in (self.http_proxy, self.https_proxy):
            credentials, is_there, _ = proxy.rpartition("@")
            if is_there:
                yield credentials.partition("://")[2].partition(":")[2]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{each.name}={self._shown(each.name)}' for each in fields(self))})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if VARIABLES[name.upper()].secret and value:
            return "'***'"
        return repr(re.sub(r"\?.*", "?***", value) if isinstance(value, str) else value)  # a query may hold a key


VARIABLES: dict[str, Variable] = {each.name.upper(): each.metadata["variable"] for each in fields(Settings)}


def describe() -> list[tuple[str, str, str]]:
    """Return the table for people: (variable, default, meaning and format), in the order of spec 2."""
    return [
        (name, _default_text(variable), f"{variable.meaning} ({variable.format.expected})")
        for name, variable in VARIABLES.items()
    ]


def _default_text(variable: Variable) -> str:
    if variable.required:
        return f"required for {variable.node_type}" if variable.node_type else "required"
    return variable.default_text if variable.default is None else variable.default
