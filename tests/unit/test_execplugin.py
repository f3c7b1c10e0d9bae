"""Credential plugins: their input, the meaning of their answers, and when they are run."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from datastorage.errors import ClusterUnavailableError
from datastorage.kube.credentials import CredentialsPace
from datastorage.kube.execplugin import PluginLimits
from datastorage.kube.transport import Transport, TransportPace
from datastorage.kube.watchretry import RequestPace
from harness.plugin import VERSION, FakePlugin
from harness.polling import eventually
from harness.servingcertificates import Authority
from tests.support.kubeconfig import DEFAULT_PACE, inline, transport_of, write_kubeconfig
from tests.support.secureserver import SecureServer, status

Open = Callable[..., Transport]

TIMEOUT = aiohttp.ClientTimeout(total=20)
SECRET = "s3cr3t-that-nobody-may-see"
WITHOUT_PAUSES = TransportPace(credentials=CredentialsPace(first_pause_seconds=0.0, max_pause_seconds=0.0))
LONGER_THAN_ANY_PAUSE = 1000.0


class Clock:
    """A clock that the test moves; in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def limited(**limits: Any) -> TransportPace:
    """Return a pace with other limits for a run of the plugin."""
    return TransportPace(credentials=CredentialsPace(plugin=PluginLimits(**limits)))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest_asyncio.fixture
async def server(authority: Authority) -> AsyncIterator[SecureServer]:
    async with SecureServer(authority.server("127.0.0.1"), client_authority=authority.pem) as running:
        yield running


@pytest.fixture
def plugin(tmp_path: Path) -> FakePlugin:
    return FakePlugin(tmp_path / "plugin")


@pytest.fixture
def open_transport(tmp_path: Path, server: SecureServer, authority: Authority, plugin: FakePlugin) -> Open:
    """Return what makes a transport whose user is the plugin's."""

    def made(
        cluster: dict[str, Any] | None = None,
        pace: TransportPace = DEFAULT_PACE,
        clock: Callable[[], float] = time.monotonic,
        **user: Any,
    ) -> Transport:
        known = {"server": server.url, "certificate-authority-data": inline(authority.pem)}
        config = write_kubeconfig(tmp_path / "config", {**known, **(cluster or {})}, plugin.user(**user))
        return transport_of(config, pace=pace, clock=clock)

    return made


async def send(transport: Transport) -> int:
    async with await transport.request("GET", "/a", timeout=TIMEOUT) as response:
        return response.status


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


async def test_the_input_of_a_plugin(
    server: SecureServer, authority: Authority, plugin: FakePlugin, open_transport: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PLUGIN_INHERITED", "yes")
    extension = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]
    async with open_transport(
        {"extensions": extension},
        args=["get", "--a b"], env=[{"name": "PLUGIN_GIVEN", "value": "1"}], provideClusterInfo=True,
    ) as transport:  # fmt: skip
        assert await send(transport) == 200
    [call] = plugin.calls
    assert call["arguments"] == ["get", "--a b"]
    assert call["environment"] == {"PLUGIN_INHERITED": "yes", "PLUGIN_GIVEN": "1"}
    assert call["closed"], "nothing can be typed in"
    assert call["info"] == {
        "apiVersion": VERSION,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": server.url,
                "certificate-authority-data": inline(authority.pem),
                "config": {"audience": "x"},
            },
        },
    }
    assert server.seen("Authorization") == ["Bearer first"]


async def test_a_plugin_of_the_older_version(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    older = "client.authentication.k8s.io/v1beta1"
    plugin.gives(version=older, token="older")
    async with open_transport(apiVersion=older, interactiveMode=None) as transport:
        assert await send(transport) == 200
    assert server.seen("Authorization") == ["Bearer older"]
    assert plugin.calls[0]["info"]["spec"] == {"interactive": False}, (
        "nothing of the cluster unless asked for"
    )


async def test_it_is_not_run_again_while_its_credentials_are_good(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    plugin.gives(token="first", expirationTimestamp=in_seconds(3600))
    async with open_transport() as transport:
        await asyncio.gather(*(send(transport) for _ in range(5)))
    assert len(server.visits) == 5
    assert len(plugin.calls) == 1


async def test_it_is_run_again_when_they_expire(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    plugin.gives(token="first", expirationTimestamp=in_seconds(5))  # less than the margin
    async with open_transport(pace=WITHOUT_PAUSES) as transport:
        await send(transport)
        plugin.gives(token="second", expirationTimestamp=in_seconds(3600))
        await send(transport)
        await send(transport)
    assert server.seen("Authorization") == ["Bearer first", "Bearer second", "Bearer second"]
    assert len(plugin.calls) == 2


async def test_it_is_run_again_after_a_refusal_and_not_for_each(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    clock = Clock()
    async with open_transport(clock=clock) as transport:
        await send(transport)
        plugin.gives(token="second")
        clock.now += LONGER_THAN_ANY_PAUSE
        server.answers = [status(401, "revoked")]
        assert await send(transport) == 200
        assert len(plugin.calls) == 2
        await send(transport)
        server.always = status(401, "revoked")
        for _ in range(5):
            assert await send(transport) == 401
    assert server.seen("Authorization")[:3] == ["Bearer first", "Bearer first", "Bearer second"]
    assert len(plugin.calls) == 2, "there are pauses between its runs"


async def test_certificates_of_a_plugin(
    server: SecureServer, authority: Authority, plugin: FakePlugin, open_transport: Open
) -> None:
    def give(name: str, seconds: float) -> None:
        pair = authority.client(name)
        plugin.gives(
            clientCertificateData=pair.certificate.decode(), clientKeyData=pair.key.decode(),
            expirationTimestamp=in_seconds(seconds),
        )  # fmt: skip

    give("ann", 5)
    async with open_transport(pace=WITHOUT_PAUSES) as transport:
        await send(transport)
        give("bob", 3600)
        await send(transport)
        await send(transport)
    assert [visit.user for visit in server.visits] == ["ann", "bob", "bob"]


def credential(**changed: Any) -> str:
    whole = {"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": SECRET}, **changed}
    return json.dumps({name: value for name, value in whole.items() if value is not None})


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("", "did not print JSON"),
        (f"Your token is {SECRET}", "did not print JSON"),
        (f'"{SECRET}"', "printed no ExecCredential"),
        ("[" * 100_000, "did not print JSON"),
        (credential(kind="Token"), "printed no ExecCredential"),
        (credential(apiVersion="client.authentication.k8s.io/v1beta1"), f"did not answer in {VERSION}"),
        (credential(status=None), "printed no status"),
        (credential(status={}), "printed neither a token nor a certificate"),
        (credential(status={"token": 7}), "printed credentials that are not text"),
        (credential(status={"token": f"{SECRET}\nx"}), "token contains line breaks"),
        (credential(status={"clientKeyData": SECRET}), "printed only one of certificate and key"),
        (
            credential(status={"clientKeyData": SECRET, "clientCertificateData": SECRET}),
            "do not fit together",
        ),
        (credential(status={"token": SECRET, "expirationTimestamp": "soon"}), "not an RFC 3339 time"),
        (
            credential(status={"token": SECRET, "expirationTimestamp": "2026-01-01T00:00:00"}),
            "not an RFC 3339",
        ),
        (credential(status={"token": SECRET, "expirationTimestamp": 7}), "not an RFC 3339 time"),
    ],
)
async def test_a_malformed_answer_is_one_line_without_its_content(
    plugin: FakePlugin, open_transport: Open, printed: str, said: str
) -> None:
    plugin.prints(printed)
    async with open_transport() as transport:
        with pytest.raises(ClusterUnavailableError) as caught:
            await send(transport)
        assert transport.monitor.problem() == str(caught.value)
    assert str(caught.value).startswith(("exec plugin 'plugin'", "kubeconfig "))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_a_plugin_that_fails_is_tried_again(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    token = "x" * 50
    plugin.does(f"sys.stderr.write('first line\\nnot logged in {token}\\n'); sys.exit(3)")
    async with open_transport(pace=WITHOUT_PAUSES) as transport:
        with pytest.raises(
            ClusterUnavailableError, match=r"^exec plugin 'plugin' ended with 3: not logged in …$"
        ):
            await send(transport)
        assert server.visits == []
        plugin.gives(token="second")
        assert await send(transport) == 200
        assert transport.monitor.problem() is None


async def test_there_are_pauses_between_its_failures(plugin: FakePlugin, open_transport: Open) -> None:
    plugin.does("sys.exit(3)")
    async with open_transport() as transport:
        for _ in range(5):
            with pytest.raises(ClusterUnavailableError, match="ended with 3"):
                await send(transport)
    assert len(plugin.calls) == 1


async def test_a_failure_leaves_credentials_that_are_not_refused(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    plugin.gives(token="first", expirationTimestamp=in_seconds(5))
    async with open_transport(pace=WITHOUT_PAUSES) as transport:
        await send(transport)
        plugin.does("sys.exit(3)")
        assert await send(transport) == 200
    assert server.seen("Authorization") == ["Bearer first", "Bearer first"]


async def test_the_pauses_between_its_failures_grow_up_to_a_limit(
    plugin: FakePlugin, open_transport: Open
) -> None:
    plugin.does("sys.exit(3)")
    clock = Clock()
    async with open_transport(clock=clock) as transport:
        for seconds, runs in ((0.0, 1), *((LONGER_THAN_ANY_PAUSE, run) for run in range(2, 9))):
            clock.now += seconds
            with pytest.raises(ClusterUnavailableError, match="ended with 3"):
                await send(transport)
            assert len(plugin.calls) == runs
        longest = CredentialsPace().max_pause_seconds
        for seconds, runs in ((longest / 2 - 0.1, 8), (longest, 9)):  # half of a pause may be jitter
            clock.now += seconds
            with pytest.raises(ClusterUnavailableError, match="ended with 3"):
                await send(transport)
            assert len(plugin.calls) == runs


async def test_a_plugin_that_hangs_ends_with_all_it_has_started(
    tmp_path: Path, plugin: FakePlugin, open_transport: Open
) -> None:
    plugin.does(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(1000)"
    )
    child = tmp_path / "pid"
    for seconds in (1, 5, 25):  # a busy machine may take longer than a second until the plugin has begun
        async with open_transport(pace=limited(run_seconds=seconds)) as transport:
            with pytest.raises(
                ClusterUnavailableError, match=f"^exec plugin 'plugin' did not end within {seconds} s and was"
            ):
                await send(transport)
        if child.exists():
            break
    await eventually(lambda: not alive(int(child.read_text())))


async def test_a_cancelled_request_ends_the_plugin(
    tmp_path: Path, plugin: FakePlugin, open_transport: Open
) -> None:
    plugin.does(f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\ntime.sleep(1000)")
    async with open_transport() as transport:
        task = asyncio.create_task(send(transport))
        await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await eventually(lambda: not alive(int((tmp_path / "pid").read_text())))


async def test_a_cancelled_run_leads_to_no_request_without_credentials(
    server: SecureServer, plugin: FakePlugin, open_transport: Open
) -> None:
    clock = Clock()
    plugin.does("time.sleep(1000)")
    async with open_transport(clock=clock) as transport:
        task = asyncio.create_task(send(transport))
        await eventually(lambda: bool(plugin.calls))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for _ in range(2):
            with pytest.raises(ClusterUnavailableError, match="has given no credentials yet"):
                await send(transport)
        assert server.visits == []
        assert transport.monitor.problem() == "the exec plugin has given no credentials yet"
        plugin.gives(token="late")
        clock.now += LONGER_THAN_ANY_PAUSE
        assert await send(transport) == 200
    assert server.seen("Authorization") == ["Bearer late"]


def test_a_run_and_an_answer_have_room_within_a_watch_s_patience() -> None:
    assert PluginLimits().run_seconds <= RequestPace().answer_seconds - 10.0


async def test_the_loop_goes_on_while_it_runs(
    plugin: FakePlugin, open_transport: Open, tmp_path: Path
) -> None:
    plugin.does(
        f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
        f"print({credential(status={'token': 'late'})!r})"
    )
    async with open_transport() as transport:
        task = asyncio.create_task(send(transport))
        await eventually(lambda: bool(plugin.calls))
        (tmp_path / "go").touch()  # only a loop that runs comes here
        assert await task == 200


async def test_output_without_an_end_is_bounded(plugin: FakePlugin, open_transport: Open) -> None:
    plugin.prints(
        credential() + " " * 100_000
    )  # these would be credentials if the output were read to its end
    async with open_transport(pace=limited(output_bytes=20)) as transport:
        with pytest.raises(ClusterUnavailableError, match="did not print JSON"):
            await send(transport)


async def test_a_plugin_that_asks_a_person_needs_a_terminal(plugin: FakePlugin, open_transport: Open) -> None:
    async with open_transport(interactiveMode="Always") as transport:
        with pytest.raises(ClusterUnavailableError, match="there is no terminal"):
            await send(transport)
    assert plugin.calls == []


async def test_a_plugin_that_cannot_be_run_any_more_is_one_line(
    plugin: FakePlugin, open_transport: Open
) -> None:
    async with open_transport() as transport:
        plugin.command.unlink()
        with pytest.raises(ClusterUnavailableError, match=r"cannot be run: No such file or directory$"):
            await send(transport)


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
