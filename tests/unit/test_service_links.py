"""Variables that Kubernetes adds to a pod for Services: none is a setting, and none is an error."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datastorage.cli import main
from datastorage.errors import ConfigurationError
from datastorage.settings import Settings, ignored_variables, load_settings, setting_names
from datastorage.variables import PREFIX

DEFAULTS = Settings.model_construct().model_dump()

Port = tuple[str, int, str]  # name, number, protocol

# A DNS label, as names of Services and of their ports are.
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
# Names of settings among them: their words with a dash between, less a last word here and there.
NEARLY_SETTINGS = st.sampled_from(
    sorted(
        {
            "-".join(words[:length])
            for words in (name.removeprefix(PREFIX).lower().split("_") for name in setting_names())
            for length in range(1, len(words) + 1)
        }
    )
)
SERVICES = st.just("datastorage") | (NEARLY_SETTINGS | LABEL).map("datastorage-{}".format)
ADDRESSES = st.ip_addresses().map(str)
PORTS = st.lists(
    st.tuples(LABEL | st.just(""), st.integers(1, 65_535), st.sampled_from(["TCP", "UDP", "SCTP"])),
    min_size=1,
    max_size=3,
)


def as_variable(name: str) -> str:
    return name.upper().replace("-", "_")


def kubelet_variables(service: str, address: str, ports: list[Port]) -> dict[str, str]:
    """Return the variables that the kubelet adds for one Service (FromServices in its package envvars)."""
    name = as_variable(service)
    host = f"[{address}]" if ":" in address else address
    variables = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0][1])}
    for port_name, number, _ in ports:
        if port_name:
            variables[f"{name}_SERVICE_PORT_{as_variable(port_name)}"] = str(number)
    variables[f"{name}_PORT"] = f"{ports[0][2].lower()}://{host}:{ports[0][1]}"
    for _, number, protocol in ports:
        link = f"{name}_PORT_{number}_{protocol}"
        variables |= {
            link: f"{protocol.lower()}://{host}:{number}",
            f"{link}_PROTO": protocol.lower(),
            f"{link}_PORT": str(number),
            f"{link}_ADDR": address,
        }
    return variables


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set these variables and none of our settings; hypothesis can't use a fixture, which runs only once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(PREFIX):
                patch.delenv(name)
        patch.setenv("DATASTORAGE_SECRETS_DIR", "/absent")
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@given(SERVICES, ADDRESSES, PORTS)
@example("datastorage", "10.0.0.1", [("http", 8080, "TCP"), ("metrics", 9090, "TCP")])
@example("datastorage-redis", "10.0.0.1", [("http-metrics", 6379, "TCP")])
@example("datastorage-api", "10.0.0.1", [("", 80, "TCP")])
@example("datastorage-metrics", "fd00::1", [("", 80, "SCTP")])
def test_no_service_changes_a_setting(service: str, address: str, ports: list[Port]) -> None:
    with environment(kubelet_variables(service, address, ports)):
        assert load_settings().model_dump() == DEFAULTS


@pytest.mark.parametrize("name", setting_names())
@pytest.mark.parametrize("url", ["tcp://10.0.0.1:80", "udp://[fd00::1]:53"])
def test_a_setting_for_a_port_is_read_or_is_a_link(name: str, url: str) -> None:
    with environment({name: url}):
        if name.endswith("_PORT"):
            assert load_settings().model_dump() == DEFAULTS
            assert ignored_variables() == [name]
        else:
            assert ignored_variables() == []


def test_a_file_sets_the_value_if_a_service_has_the_variable(tmp_path: Path) -> None:
    (tmp_path / "DATASTORAGE_API_PORT").write_text("8181")
    variables = {"DATASTORAGE_API_PORT": "tcp://10.0.0.1:80", "DATASTORAGE_SECRETS_DIR": str(tmp_path)}
    with environment(variables):
        assert load_settings().api.port == 8181


def test_run_says_which_variable_it_ignores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["datastorage", "run"])
    monkeypatch.setattr("datastorage.cli.operator.configure_logging", lambda *_: None)
    variables = kubelet_variables("datastorage-api", "10.0.0.1", [("", 80, "TCP")])
    with environment(variables), pytest.raises(SystemExit):
        main()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "DATASTORAGE_API_PORT is ignored"
    ]
    assert "DATASTORAGE_DATABASE_URL is not set" in capsys.readouterr().err  # the settings were read


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("DATASTORAGE_METRIC_PORT", "9091", "DATASTORAGE_METRICS_PORT"),
        ("DATASTORAGE_PORT", "8081", "DATASTORAGE_"),
        ("DATASTORAGE_API_PORTS", "tcp://10.0.0.1:80", "DATASTORAGE_API_PORT"),
        ("DATASTORAGE_REDIS_HOST", "10.0.0.1", "DATASTORAGE_REDIS_URL"),
        ("DATASTORAGE_API_PORT_80", "80", "DATASTORAGE_API_PORT"),
    ],
)
def test_a_name_that_only_resembles_a_service_link_is_refused(name: str, value: str, meant: str) -> None:
    with (
        environment({name: value}),
        pytest.raises(ConfigurationError, match=f"^{name} is not a setting: did you mean {meant}"),
    ):
        load_settings()


@pytest.mark.parametrize("value", ["http://10.0.0.1:80", "tcp", "10.0.0.1:80"])
def test_a_wrong_port_is_still_wrong(value: str) -> None:
    with environment({"DATASTORAGE_API_PORT": value}), pytest.raises(ConfigurationError, match="API_PORT: "):
        load_settings()
