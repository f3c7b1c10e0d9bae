"""The servers that a URL names, one by one."""

import pytest

from datastorage.errors import ConfigurationError
from datastorage.storage.connection.hosts import attempts
from datastorage.storage.connection.urls import parse_url


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql:///name", ["postgresql:///name"]),
        ("postgresql://u:p@h/name", ["postgresql://u:p@h/name"]),
        ("postgresql://u:p%2C@h1,h2:5433/n", ["postgresql://u:p%2C@h1/n", "postgresql://u:p%2C@h2:5433/n"]),
        ("postgresql://[::1]:1,[fe80::1]/n", ["postgresql://[::1]:1/n", "postgresql://[fe80::1]/n"]),
        ("postgresql://u@/n?host=/run&port=1", ["postgresql://u@/n?host=/run&port=1"]),
        ("postgresql://u@/n?host=a,b", ["postgresql://u@/n?host=a", "postgresql://u@/n?host=b"]),
        (
            "postgresql://u@/n?host=a,b&port=1,2",
            ["postgresql://u@/n?host=a&port=1", "postgresql://u@/n?host=b&port=2"],
        ),
        (
            "postgresql://u@/n?host=a,b&port=1",
            ["postgresql://u@/n?host=a&port=1", "postgresql://u@/n?host=b&port=1"],
        ),
    ],
)
def test_each_host_is_tried_by_itself(url: str, hosts: list[str]) -> None:
    def plain(text: str) -> str:
        return text.replace(":///", ":/")

    parsed = parse_url(url, "DATASTORAGE_DATABASE_URL")
    found = [plain(one.driver_url) for one, _ in attempts(parsed, writable=True)]
    assert found == [plain(host) for host in hosts]
    assert {kind for _, kind in attempts(parsed, writable=True)} == {"any"}
    assert {kind for _, kind in attempts(parsed, writable=False)} == {None}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@/n?host=a,b,c&port=1,2",
        "postgresql://u@/n?host=a,b&port=1,2,3",
        "postgresql://u@/n?host=a&port=1,2",
        "postgresql://u@a,b/n?port=1,2,3",
    ],
)
def test_no_host_is_left_out_because_it_has_no_port(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^DATASTORAGE_DATABASE_URL: port has \d numbers for \d host"
    ):
        parse_url(url, "DATASTORAGE_DATABASE_URL")


def test_a_reader_that_prefers_standbys_tries_them_all_first() -> None:
    url = parse_url("postgresql://a,b/n?target_session_attrs=prefer-standby", "DATASTORAGE_DATABASE_URL")
    assert [(one.driver_url[len("postgresql://")], kind) for one, kind in attempts(url, writable=False)] == [
        ("a", "standby"), ("b", "standby"), ("a", "any"), ("b", "any"),
    ]  # fmt: skip
