"""Where the token for a server comes from, and which tokens are never sent."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from datastorage.client.access import Access, open_server
from datastorage.errors import ConfigurationError, NotAuthenticatedError
from harness.plugin import FakePlugin
from tests.support.answering import Answering, answering
from tests.support.kubeconfig import write_kubeconfig

_POD = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}


def web_token(**claims: Any) -> str:
    """Return a JSON Web Token that nobody has signed."""
    parts = ({"alg": "RS256"}, claims)
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "x"]
    )


async def sent(remote: Answering, environment: dict[str, str], **access: Any) -> str | None:
    """Return the header in which a question has its token."""
    async with open_server(Access(url=remote.url, **access), environment) as server:
        await server.ask("/x")
    return remote.requests[-1].headers.get("Authorization")


async def refused(environment: dict[str, str], **access: Any) -> str:
    """Return the error about a server that wants another token."""
    async with answering() as remote:
        remote.problem(401, "not-authenticated", "no credentials")
        async with open_server(Access(url=remote.url, **access), environment) as server:
            with pytest.raises(NotAuthenticatedError) as raised:
                await server.ask("/x")
        assert "Authorization" not in remote.requests[-1].headers
    return str(raised.value)


def user(folder: Path, **credentials: Any) -> dict[str, str]:
    """Return an environment with the kubeconfig of a user."""
    path = write_kubeconfig(folder / "kubeconfig", {"server": "https://127.0.0.1:1"}, credentials)
    return {"KUBECONFIG": str(path)}


async def test_the_first_source_that_is_given_counts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "pod").write_text("from-pod\n")
    environment = user(tmp_path, token=web_token(aud=["datastorage"]))
    given = {"DATASTORAGE_TOKEN": "from-variable"}
    async with answering() as remote:
        remote.say(200, {})
        everything = {**environment, **given, **_POD}
        file, pod = {"token_file": tmp_path / "token"}, {"pod_token": tmp_path / "pod"}
        assert await sent(remote, everything, **file, **pod) == "Bearer from-file"
        assert await sent(remote, everything, **pod) == "Bearer from-variable"
        assert await sent(remote, {**environment, **_POD}, **pod) == "Bearer from-pod"
        named = await sent(remote, {**environment, **_POD}, **pod, context="test")
        assert named == f"Bearer {web_token(aud=['datastorage'])}"
        assert await sent(remote, environment, **pod) == named


async def test_the_file_is_read_again_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    async with answering() as remote:
        remote.say(200, {})
        async with open_server(Access(url=remote.url, token_file=path), {}) as server:
            await server.ask("/x")
            path.write_text("second")
            await server.ask("/x")
            path.unlink()
            with pytest.raises(ConfigurationError, match=r"the file of the token .*No such file"):
                await server.ask("/x")
    assert [each.headers["Authorization"] for each in remote.requests] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"nul\x00"])
async def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    async with answering() as remote:
        remote.say(200, {})
        with pytest.raises(ConfigurationError, match="token"):
            await sent(remote, {}, token_file=path)
        assert remote.requests == []


@pytest.mark.parametrize("audience", ["datastorage", ["other", "datastorage"]])
async def test_the_user_s_token_for_our_audience_is_sent(tmp_path: Path, audience: Any) -> None:
    token = web_token(aud=audience)
    plugin = FakePlugin(tmp_path / "plugin")
    plugin.gives(token=token)
    async with answering() as remote:
        remote.say(200, {})
        assert await sent(remote, user(tmp_path, token=token)) == f"Bearer {token}"
        assert await sent(remote, user(tmp_path, **plugin.user())) == f"Bearer {token}"
    assert len(plugin.calls) == 1


async def test_a_plugin_s_token_is_sent_until_it_expires(tmp_path: Path) -> None:
    first, second = (web_token(aud="datastorage", jti=name) for name in ("first", "second"))
    plugin = FakePlugin(tmp_path / "plugin")
    async with answering() as remote:
        remote.say(200, {})
        async with open_server(Access(url=remote.url), user(tmp_path, **plugin.user())) as server:
            plugin.gives(token=first, expirationTimestamp="2026-03-05T10:00:00Z")
            await server.ask("/x")
            plugin.gives(token=second, expirationTimestamp="2999-03-05T10:00:00Z")
            await server.ask("/x")
            plugin.does("raise SystemExit(1)")
            await server.ask("/x")
    tokens = [each.headers["Authorization"] for each in remote.requests]
    assert tokens == [f"Bearer {first}", f"Bearer {second}", f"Bearer {second}"]


async def test_the_user_s_token_for_another_audience_is_not_sent(tmp_path: Path) -> None:
    account = "system:serviceaccount:shop:recorder"
    error = await refused(user(tmp_path, token=web_token(aud=["https://kubernetes"], sub=account)))
    assert "is for https://kubernetes, so it was not sent: use --as-serviceaccount shop/recorder" in error
    error = await refused(user(tmp_path, token="opaque"))
    assert "names no audience, so it was not sent: use --as-serviceaccount NAMESPACE/NAME" in error
    error = await refused(user(tmp_path, username="admin", password="hunter2"))
    assert "has no token to send" in error
    assert "hunter2" not in error
    error = await refused(user(tmp_path))
    assert "has no token to send" in error
    async with answering() as remote:
        remote.say(200, {})
        assert await sent(remote, user(tmp_path, token="opaque"), user_token=True) == "Bearer opaque"


async def test_without_any_token_the_error_says_how_to_give_one(tmp_path: Path) -> None:
    absent = {"KUBECONFIG": str(tmp_path / "absent")}
    assert "give a token for the audience 'datastorage' with --token-file" in await refused(absent)
    error = await refused(_POD, pod_token=tmp_path / "absent")
    assert f"no token is mounted at {tmp_path / 'absent'}: mount one for the audience 'datastorage'" in error


async def test_a_wrong_choice_is_refused_at_once(tmp_path: Path) -> None:
    environment = user(tmp_path, token="t")
    for access, message in (
        ({"context": "other"}, r"there is no context 'other' in it \(there are: test\)"),
        ({"kubeconfig": tmp_path / "absent"}, "absent: No such file"),
        ({"account": "recorder"}, "--as-serviceaccount must be NAMESPACE/NAME"),
        ({"account": "/recorder"}, "--as-serviceaccount must be NAMESPACE/NAME"),
        ({"account": "a/b/c"}, "--as-serviceaccount must be NAMESPACE/NAME"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            async with open_server(Access(url="http://127.0.0.1:1", **access), environment):
                pass


async def test_a_token_of_a_service_account_is_asked_for_once_while_it_is_valid(tmp_path: Path) -> None:
    async with answering() as cluster, answering() as remote:
        expired = {"status": {"token": "first", "expirationTimestamp": "2026-03-05T10:00:00Z"}}
        valid = {"status": {"token": "second", "expirationTimestamp": "2999-03-05T10:00:00Z"}}
        cluster.say(201, expired)
        cluster.say(201, valid)
        remote.say(200, {})
        path = write_kubeconfig(tmp_path / "kubeconfig", {"server": cluster.url}, {"token": "own"})
        access = Access(url=remote.url, account="shop/recorder", kubeconfig=path, audience="other")
        async with open_server(access, {}) as server:
            for _ in range(3):
                await server.ask("/x")
    tokens = [each.headers["Authorization"] for each in remote.requests]
    assert tokens == ["Bearer first", "Bearer second", "Bearer second"]
    assert [each.path for each in cluster.requests] == [
        "/api/v1/namespaces/shop/serviceaccounts/recorder/token"
    ] * 2
    assert json.loads(cluster.requests[0].body)["spec"]["audiences"] == ["other"]
