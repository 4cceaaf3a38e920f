"""The formats of addresses: upstream's URL, the broker's URL, a listening address, lists of hosts. Pure.

No error message shows a URL, because a URL is where a key or a password ends up by mistake.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from workernode.settings.formats import Format, quoted


class Address(NamedTuple):
    """Where a server listens, as `socket` wants it."""

    host: str  # an IPv6 address stands without its brackets
    port: int


# A path that already contains the start of the API: it ends in a version (/v1, /v1beta), holds one and ends in /openai
# or /openapi (Gemini, Vertex AI, Cloudflare), or names a deployment (Azure).
_API_BASE = re.compile(r".*/v[0-9]+[a-z0-9]*(/(.*/)?open(ai|api))?|.*/deployments/[^/]+")
_OTHER_SERVICE = re.compile(r".*/(completions|responses|embeddings|models|chat)")
_UNREADABLE = "has a host or a port that cannot be read"


def chat_address(text: str) -> str:
    """Return the full chat completions address for an API_URL in any of its three forms. The query string is kept.

    The rule: a path that ends in `/chat/completions` is kept; one that contains the start of the API (`_API_BASE`) gets
    `/chat/completions`; any other gets `/v1/chat/completions`. Trailing slashes do not count.

    Raises:
        ValueError: it is no such address. The text says why and does not show the address.
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


def _split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    """Return the parts of an http(s) address that holds no credentials."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a space, a line end, a control character or a letter outside ASCII")
    try:
        url = urlsplit(text)
        port_is_wrong = url.port == 0
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if url.scheme not in schemes or not text.lower().startswith(f"{url.scheme}://"):
        raise ValueError(f"starts with none of {', '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in url.netloc:
        raise ValueError("holds credentials before the host")
    if port_is_wrong or not _is_host(url.hostname or ""):
        raise ValueError(_UNREADABLE)
    return url


def _is_host(name: str) -> bool:
    """Whether it is a host's name or an IP address, an IPv6 address without brackets."""
    if ":" in name:
        return _is_ipv6(name)
    return len(name) <= 253 and bool(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", name))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _parse_http_url(text: str) -> str:
    return _split_url(text, ("http", "https")).geturl()


def _parse_pulsar_url(text: str) -> str:
    """Return Pulsar's service URL: several brokers may stand in it, with commas between them."""
    scheme, mark, brokers = text.rstrip("/").partition("://")
    if not mark or scheme.lower() not in ("pulsar", "pulsar+ssl"):
        raise ValueError("starts with neither pulsar:// nor pulsar+ssl://")
    if "@" in brokers:
        raise ValueError("holds credentials before the host")
    hosts = [broker.strip() for broker in brokers.split(",")]
    for broker in hosts:
        host, colon, port = broker.partition(":")
        if broker.count(":") > 1:
            raise ValueError("holds an IPv6 address, which pulsar-client does not take: give the broker's name")
        if not _is_host(host) or (colon and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535)):
            raise ValueError(_UNREADABLE)
    return f"{scheme.lower()}://{','.join(hosts)}"


def _parse_status_addr(text: str) -> Address | None:
    if text.lower() == "off":
        return None
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not _is_host(host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"is {quoted(text)}")
    return Address(host, int(port))


def _parse_hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host for host in re.split(r"[,\s]+", text.lower()) if host)
    for host in hosts:
        if not re.fullmatch(r"[a-z0-9_.:*?\[\]!-]+", host) or host.count(":") == 1:
            raise ValueError(f"holds {quoted(host)}")
    # An IPv6 address in brackets, as URLs have it; other brackets are those of a pattern.
    return tuple(host[1:-1] if host.startswith("[") and _is_ipv6(host[1:-1]) else host for host in hosts)


CHAT_ADDRESS = Format("http(s)://host[:port], with or without /v1, or the full .../chat/completions", chat_address)
HTTP_URL = Format("http(s)://host[:port]/path without credentials", _parse_http_url)
PULSAR_URL = Format("pulsar://host:6650 or pulsar+ssl://host:6651, commas between several hosts", _parse_pulsar_url)
STATUS_ADDR = Format("host:port, [IPv6]:port or `off`", _parse_status_addr)
HOSTS = Format("hosts or patterns of hosts (*.example.com) without scheme and port, commas between", _parse_hosts)
