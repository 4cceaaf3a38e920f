"""What the endpoint of a task becomes when it is read: an address that answers may go to, or a fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.task import Endpoint, read_endpoint

ENDPOINTS = {
    "http": ("http://gw:8080/res", Endpoint(False, "gw", 8080, "/res")),
    "ws": ("ws://gw:8080/res/ws", Endpoint(False, "gw", 8080, "/res/ws")),
    "https": ("https://gw/res", Endpoint(True, "gw", 443, "/res")),
    "wss": ("wss://gw/res/ws", Endpoint(True, "gw", 443, "/res/ws")),
    "upper_case": ("HTTP://GW.Example:80/Res", Endpoint(False, "gw.example", 80, "/Res")),
    "no_path": ("http://gw", Endpoint(False, "gw", 80, "/")),
    "query": ("http://gw/res?a=1&b=%20", Endpoint(False, "gw", 80, "/res?a=1&b=%20")),
    "fragment_is_not_sent": ("http://gw/res#top", Endpoint(False, "gw", 80, "/res")),
    "ip_address": ("http://10.0.0.7:81/res", Endpoint(False, "10.0.0.7", 81, "/res")),
    "ipv6_address": ("http://[fd00::1]:81/res", Endpoint(False, "fd00::1", 81, "/res")),
    "underscore": ("http://main_api/res", Endpoint(False, "main_api", 80, "/res")),
    "root_dot": ("http://gw.local./res", Endpoint(False, "gw.local.", 80, "/res")),
}


@pytest.mark.parametrize(("address", "endpoint"), ENDPOINTS.values(), ids=ENDPOINTS.keys())
def test_an_endpoint_is_read(address: str, endpoint: Endpoint) -> None:
    assert read_endpoint(address) == endpoint


@pytest.mark.parametrize(
    ("address", "authority"),
    [
        ("http://gw/", "gw"),
        ("http://gw:80/", "gw"),
        ("https://gw:80/", "gw:80"),
        ("https://gw:443/", "gw"),
        ("http://[fd00::1]:81/", "[fd00::1]:81"),
        ("https://[fd00::1]/", "[fd00::1]"),
    ],
)
def test_the_host_header_of_an_endpoint(address: str, authority: str) -> None:
    assert read_endpoint(address).origin.authority == authority


NO_ENDPOINTS = {
    "file": "file:///etc/passwd",
    "gopher": "gopher://gw/res",
    "ftp": "ftp://gw/res",
    "unix_path": "/var/run/docker.sock",
    "http_unix": "http+unix://%2Fvar%2Frun/res",
    "scheme_missing": "//gw/res",
    "host_missing": "http:///res",
    "host_and_port_missing": "http://:8080/res",
    "only_a_scheme": "http:",
    "empty": "",
    "space": "http://gw /res",
    "space_before": " http://gw/res",
    "tab": "http://gw\t/res",
    "line_end": "http://gw/res\r\nX-Evil: 1",
    "line_end_in_the_host": "http://gw\r\nX-Evil: 1/res",
    "nul": "http://gw/\x00",
    "backslash": "http://gw\\@evil/res",
    "letters_outside_ascii": "http://gẅ/res",
    "credentials": "http://user:secret@gw/res",
    "only_a_user": "http://169.254.169.254@gw/res",
    "port_0": "http://gw:0/res",
    "port_65536": "http://gw:65536/res",
    "port_of_letters": "http://gw:http/res",
    "port_empty": "http://gw:/res",
    "brackets_not_closed": "http://[::1/res",
    "something_behind_brackets": "http://[::1]x/res",
    "something_before_brackets": "http://x[::1]/res",
    "two_ports": "http://gw:80:80/res",
    "brackets_around_a_name": "http://[gw]/res",
    "zone_of_an_address": "http://[fe80::1%25eth0]/res",
    "percent_in_the_host": "http://g%77/res",
    "two_dots_in_the_host": "http://gw..local/res",
    "label_too_long": f"http://{'a' * 64}.local/res",
    "host_too_long": f"http://{'.'.join(['a' * 60] * 5)}/res",
    "host_that_begins_with_a_dot": "http://.gw/res",
    "host_that_begins_with_a_hyphen": "http://-gw/res",
}


@pytest.mark.parametrize("address", NO_ENDPOINTS.values(), ids=NO_ENDPOINTS.keys())
def test_no_answer_goes_to_such_an_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"^endpoint") as caught:
        read_endpoint(address)
    assert "secret" not in str(caught.value), "the address is repeated"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("http://gw.uplion.svc/res", True),
        ("http://GW.Uplion.svc/res", True),
        ("http://10.1.2.3/res", True),
        ("http://main-api/res", True),
        ("http://gw.uplion.svc.evil.com/res", False),
        ("http://evil.com/gw.uplion.svc", False),
        ("http://10.2.0.1/res", False),
        ("http://[::1]/res", False),
    ],
)
def test_reply_hosts_bound_where_answers_go(address: str, allowed: bool) -> None:
    hosts = ("*.uplion.svc", "10.1.*", "Main-API")
    if allowed:
        assert read_endpoint(address, hosts)
        return
    with pytest.raises(ValueError, match="REPLY_HOSTS"):
        read_endpoint(address, hosts)


def test_an_address_that_was_read_before_is_still_refused_where_it_must_be() -> None:
    address = "http://gateway.example/res"
    assert read_endpoint(address) is read_endpoint(address)
    with pytest.raises(ValueError, match="REPLY_HOSTS"):
        read_endpoint(address, ("other.example",))


def test_a_long_address_is_read_each_time_so_that_it_takes_no_memory() -> None:
    address = f"http://gateway.example/{'r' * 300}"
    assert read_endpoint(address) == read_endpoint(address)
    assert read_endpoint(address) is not read_endpoint(address)


@given(st.text(max_size=40) | st.text(alphabet="htps:/w[]@%.-0a?#&=", max_size=30).map(lambda rest: "http://" + rest))
def test_any_endpoint_can_be_put_into_a_request_or_is_refused(address: str) -> None:
    try:
        endpoint = read_endpoint(address)
    except ValueError:
        return
    assert endpoint.host.isascii()
    assert endpoint.host.encode("idna"), "name resolution would raise something else than OSError"
    assert 0 < endpoint.port < 65536
    assert endpoint.target.startswith("/")
    for text in (endpoint.origin.authority, endpoint.target):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
