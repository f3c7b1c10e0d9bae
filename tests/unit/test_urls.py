"""URLs of PostgreSQL: each parameter of libpq has its meaning here, or is refused by name."""

from pathlib import Path

import pytest

from datastorage.errors import ConfigurationError
from datastorage.storage.connection.urls import ServerUrl, address_in, check_url, files_in, parse_url

_SETTING = "DATASTORAGE_VECTOR_DATABASE_URL"
_OURS = {"application_name": "datastorage", "timezone": "UTC"}
# All of libpq 18, but for what stands before the "?" as well.
_LIBPQ = (
    "passfile=/f", "require_auth=md5", "channel_binding=require", "connect_timeout=10",
    "client_encoding=auto", "options=-c%20jit%3Doff", "application_name=a",
    "fallback_application_name=b", "keepalives=1", "keepalives_idle=30", "keepalives_interval=5",
    "keepalives_count=3", "tcp_user_timeout=1000", "replication=database", "gssencmode=disable",
    "sslmode=require", "sslnegotiation=direct", "sslcompression=0", "sslcert=/c", "sslkey=/k",
    "sslkeylogfile=/l", "sslpassword=hunter2", "sslcertmode=disable", "sslrootcert=system", "sslcrl=/r",
    "sslcrldir=/d", "sslsni=0", "requirepeer=postgres", "ssl_min_protocol_version=TLSv1.2",
    "ssl_max_protocol_version=TLSv1.3", "min_protocol_version=3.2", "max_protocol_version=3.2",
    "krbsrvname=postgres", "gsslib=gssapi", "gssdelegation=1", "scram_client_key=hunter2",
    "scram_server_key=x", "target_session_attrs=read-write", "load_balance_hosts=random",
    "oauth_issuer=x", "oauth_client_id=x", "oauth_client_secret=hunter2", "oauth_scope=x",
    "hostaddr=127.0.0.1",
)  # fmt: skip


def parsed(query: str) -> ServerUrl:
    return parse_url(f"postgresql://me:hunter2@host/name?{query}", _SETTING)


@pytest.mark.parametrize("parameter", _LIBPQ)
def test_no_parameter_of_libpq_reaches_the_server_as_a_setting(parameter: str) -> None:
    """The server would refuse it at every attempt."""
    name = parameter.partition("=")[0]
    refused = None
    try:
        url = parsed(parameter)
    except ConfigurationError as error:
        refused = str(error)
    if refused is None:
        assert name in {"options", "application_name"} or name not in url.server_settings
    else:
        assert refused.startswith(f"{_SETTING}: {name}")
        assert "hunter2" not in refused


@pytest.mark.parametrize(
    "parameter",
    [
        "channel_binding=require", "gssencmode=require", "require_auth=scram-sha-256", "hostaddr=127.0.0.1",
        "load_balance_hosts=random", "client_encoding=LATIN1", "replication=true", "sslcrldir=/d", "sslsni=0",
        "min_protocol_version=3.2", "oauth_issuer=x", "TimeZone=Europe%2FBerlin", "sslmode=verify",
        "sslmode=parse", "target_session_attrs=writable", "connect_timeout=soon", "keepalives_idle=x",
        "with%20blank=1",
    ],
)  # fmt: skip
def test_unsupported_parameters_are_refused(parameter: str) -> None:
    with pytest.raises(ConfigurationError, match=_SETTING) as caught:
        parsed(parameter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "channel_binding=prefer&gssencmode=prefer&sslcompression=1&load_balance_hosts=disable",
        "client_encoding=UTF8&timezone=UTC&replication=false&sslsni=1&sslcertmode=allow",
        "channel_binding=&sslmode=&connect_timeout=",
    ],
)
def test_parameters_that_the_driver_obeys_anyway_are_accepted_and_left_out(query: str) -> None:
    url = parsed(query)
    assert (url.server_settings, url.parameters) == (_OURS, {})
    assert url.driver_url == "postgresql://me:hunter2@host/name"


def test_settings_of_the_server_go_to_the_server() -> None:
    url = parsed("statement_timeout=5s&options=-c%20search_path%3Dx&my.setting=1")
    assert url.server_settings == _OURS | {
        "statement_timeout": "5s", "options": "-c search_path=x", "my.setting": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("application_name=audit", "audit"),
        ("fallback_application_name=late", "late"),
        ("application_name=audit&fallback_application_name=late", "audit"),
        ("sslmode=disable", "datastorage"),
    ],
)
def test_the_service_has_the_name_that_the_url_gives_it(query: str, name: str) -> None:
    assert parsed(query).server_settings["application_name"] == name


@pytest.mark.parametrize(
    ("given", "seconds"), [("3", 3.0), ("0", 5.0), ("-1", 5.0), ("600", 30.0), ("", 5.0)]
)
def test_a_connection_is_waited_for_as_long_as_the_url_says_within_bounds(given: str, seconds: float) -> None:
    assert parsed(f"connect_timeout={given}").connect_seconds == seconds


def test_the_driver_understands_each_character_as_libpq_does() -> None:
    url = parsed("password=a+b%20c%26d&sslrootcert=%2Fetc%2Fa b.crt")
    assert url.parameters == {"password": "a+b c&d", "sslrootcert": "/etc/a b.crt"}
    assert url.driver_url.endswith("?password=a%2Bb%20c%26d&sslrootcert=/etc/a%20b.crt")


def test_true_as_jdbc_writes_it_demands_tls() -> None:
    assert parsed("ssl=true").parameters == {"sslmode": "require"}


def test_a_service_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "services").write_text(
        "[audit]\nhost=db\nport=5433\nconnect_timeout=9\nchannel_binding=prefer\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    url = parse_url("postgresql:///name?service=audit&port=5434", _SETTING)
    assert url.parameters == {"host": "db", "port": "5434"}
    assert (url.connect_seconds, url.address) == (9.0, "db")


@pytest.mark.parametrize(("file", "said"), [("", "which can't be read"), ("[other]\n", "is not in")])
def test_a_service_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, said: str
) -> None:
    """The driver ignores it, and would try the server on this machine forever."""
    if file:
        (tmp_path / "services").write_text(file)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    with pytest.raises(ConfigurationError, match=f"{_SETTING}: service=audit .*{said}"):
        parsed("service=audit")


@pytest.mark.parametrize("url", ["postgresql:/nonsense", "postgresql:x", "postgres", "mysql://x/y"])
def test_a_url_of_another_kind_is_no_absent_server(url: str) -> None:
    """With one slash less, the driver would look for a server on this machine."""
    with pytest.raises(ConfigurationError, match="DATASTORAGE_DATABASE_URL"):
        check_url(url, "DATASTORAGE_DATABASE_URL")


def test_the_files_of_a_url_are_found() -> None:
    assert files_in("postgresql://u:p@h/n?sslrootcert=/a%20b&sslmode=require&sslkey=/k&sslcert=/c") == [
        "/a b", "/c", "/k",
    ]  # fmt: skip
    assert files_in("postgresql://u:p@h/n") == []


def test_a_service_file_and_the_files_that_it_names_are_found(tmp_path: Path) -> None:
    services = tmp_path / "services"
    url = f"postgresql:///name?service=audit&servicefile={services}&sslkey=/own"
    assert files_in(url) == [str(services), "/own"], "it is absent for now"
    services.write_text("[audit]\nhost=db\nsslkey=/k\nsslcert=/c\n")
    assert files_in(url) == [str(services), "/c", "/own"]


def test_the_address_of_a_service_is_that_of_its_file(tmp_path: Path) -> None:
    services = tmp_path / "services"
    url = f"postgresql:///name?service=audit&servicefile={services}"
    assert address_in(url) == "localhost"
    services.write_text("[audit]\nhost=db\n")
    assert address_in(url) == "db"
