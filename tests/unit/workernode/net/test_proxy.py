"""Which proxy is for an address, as curl and requests read the variables."""

from __future__ import annotations

import pytest

from workernode.net.proxy import Proxy, is_exempt, parse_proxy_url, proxy_for


@pytest.mark.parametrize(
    ("host", "no_proxy", "exempt"),
    [
        ("api.example.com", "", False),
        ("api.example.com", "*", True),
        ("api.example.com", "example.com", True),
        ("api.example.com", ".example.com", True),
        ("api.example.com", "*.example.com", True),
        ("API.Example.com.", "other.org, EXAMPLE.com", True),
        ("badexample.com", "example.com", False),
        ("api.example.com", "example.com:443", True),
        ("api.example.com", "example.com:8080", False),
        ("api.example.com", "a b api.example.com", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.30", "10.1.2.3", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]", True),
        ("10.1.2.3", "nonsense/8", False),
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("::1", "", True),
        ("localhost.example.com", "", False),
    ],
)
def test_a_host_is_exempt_from_the_proxy(host: str, no_proxy: str, exempt: bool) -> None:
    assert is_exempt(host, 443, no_proxy) is exempt


def test_the_proxy_is_that_of_the_scheme() -> None:
    assert proxy_for("https://h/v1", "http://a:1", "http://b:2", "") == "http://b:2"
    assert proxy_for("http://h/v1", "http://a:1", "http://b:2", "") == "http://a:1"
    assert proxy_for("http://h/v1", "", "http://b:2", "") == ""
    assert proxy_for("https://h/v1", "", "http://b:2", "h") == ""


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128)),
        ("proxy:3128", Proxy("proxy", 3128)),
        ("HTTP://proxy/", Proxy("proxy", 80)),
        ("http://u:p%40ss@[::1]:3128", Proxy("::1", 3128, "Basic dTpwQHNz")),
    ],
)
def test_an_address_of_a_proxy_is_parsed(url: str, proxy: Proxy) -> None:
    assert Proxy.parse(parse_proxy_url(url)) == proxy


@pytest.mark.parametrize("url", ["https://proxy:3128", "socks5://proxy:1", "http://:1", "http://proxy:x", "http://a b"])
def test_what_is_no_http_proxy_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"proxy|host") as caught:
        parse_proxy_url(url)
    assert url not in str(caught.value)
