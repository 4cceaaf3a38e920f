"""HTTP proxies: which one is for an address, as curl and requests read the variables. Pure."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from workernode.net.origin import Origin


class Proxy(NamedTuple):
    """An HTTP proxy, to which the connection itself is not encrypted."""

    host: str
    port: int
    authorization: str = ""  # the value of Proxy-Authorization; "" without

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Return the proxy that http://[user:password@]host[:port] names. Without a port it is 80, as in requests."""
        parts = urlsplit(url)
        authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return cls(parts.hostname or "", parts.port or 80, authorization)


def parse_proxy_url(url: str) -> str:
    """Return the address of an HTTP proxy, complete with its scheme.

    Raises:
        ValueError: it is none. The text says why and does not show the address, which may hold a password.
    """
    url = url if "://" in url else f"http://{url}"
    scheme = url.partition("://")[0].lower()
    if scheme == "https":
        raise ValueError("is a proxy over TLS, which is not supported")
    if scheme != "http":
        raise ValueError("is no HTTP proxy")
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete or not re.fullmatch("[!-~]+", url):
        raise ValueError("has a host or a port that cannot be read")
    return url


def proxy_for(url: str, http_proxy: str, https_proxy: str, no_proxy: str) -> str:
    """Return which of the proxies a request to this URL goes through; "" for none."""
    parts = urlsplit(url)
    origin = Origin.of(parts)
    proxy = https_proxy if origin.secure else http_proxy
    return "" if not proxy or is_exempt(origin.host, origin.port, no_proxy) else proxy


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Return whether NO_PROXY exempts a host from the proxy. The machine itself always is, as in Go's net/http.

    Args:
        no_proxy: names, IP addresses and networks (10.0.0.0/8) with commas or spaces between. A name exempts its
            subdomains, too; `*` exempts every host. A port may follow.
    """
    host = host.lower().rstrip(".")
    address = _ip(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry, host, port, address) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _matches(entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if entry == "*":
        return True
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    with_port = re.fullmatch(r"(\[.*\]|[^:]*):([0-9]+)", entry)
    if with_port:
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    entry = entry.strip("[]").lstrip("*").strip(".")
    if address is not None:
        return _ip(entry) == address
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
