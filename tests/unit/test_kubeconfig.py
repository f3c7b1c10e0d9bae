"""The contents of a kubeconfig or a pod's files, and a one-line error for each that can't be used."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from datastorage.errors import ConfigurationError
from datastorage.kube.endpoint import Endpoint, load_endpoint, pod_namespace
from harness.absent import as_in_image
from harness.servingcertificates import Authority

SECRET = "s3cr3t-that-nobody-may-see"
EXEC = {
    "apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "interactiveMode": "Never",
}  # fmt: skip


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def config(
    cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **other: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        **other,
    }


def context(**names: str) -> dict[str, Any]:
    return config(contexts=[{"name": "here", "context": names}])


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def load(*paths: Path, **environment: str) -> Endpoint:
    return load_endpoint({"KUBECONFIG": os.pathsep.join(map(str, paths)), **environment})


def refusal(tmp_path: Path, content: Any) -> str:
    path = write(tmp_path / "config", content)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"kubeconfig {path}: ")
    assert "\n" not in said
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    ("user", "authorization"),
    [
        ({}, None),
        ({"token": "abc"}, "Bearer abc"),
        ({"token": "abc", "exec": EXEC}, "Bearer abc"),
        (
            {"username": "ann", "password": "pä:ss"},
            f"Basic {base64.b64encode('ann:pä:ss'.encode()).decode()}",
        ),
        ({"auth-provider": {"name": "oidc", "config": {"id-token": "abc"}}}, "Bearer abc"),
        ({"auth-provider": {"name": "gcp"}, "token": "abc"}, "Bearer abc"),
        ({"tokenFile": "folder/token"}, "Bearer from-file"),
        ({"tokenFile": "folder/token", "token": "abc"}, "Bearer from-file"),
        ({"tokenFile": "folder/away", "token": "abc"}, "Bearer abc"),
    ],
)
def test_each_way_to_authenticate(tmp_path: Path, user: dict[str, Any], authorization: str | None) -> None:
    write(tmp_path / "folder" / "token", "from-file\n")
    endpoint = load(write(tmp_path / "config", config(user=user)))
    assert endpoint.authorization == authorization
    assert endpoint.plugin is None
    assert SECRET not in repr(endpoint)


def test_secrets_do_not_show_in_a_repr(tmp_path: Path) -> None:
    user = {"token": SECRET, "as": "ann"}
    endpoint = load(write(tmp_path / "config", config({"proxy-url": f"http://u:{SECRET}@proxy:3128"}, user)))
    assert SECRET not in repr(endpoint)


def test_impersonation(tmp_path: Path) -> None:
    user = {
        "as": "ann", "as-uid": "7", "as-groups": ["dev", "ops"],
        "as-user-extra": {"50%": ["three"], "example.com/Scope x": ["one", "two"]},
    }  # fmt: skip
    assert load(write(tmp_path / "config", config(user=user))).headers == (
        ("Impersonate-User", "ann"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-50%25", "three"),
        ("Impersonate-Extra-example.com%2FScope%20x", "one"),
        ("Impersonate-Extra-example.com%2FScope%20x", "two"),
    )


@pytest.mark.parametrize(
    ("server", "cluster", "expected"),
    [
        ("https://api.example:6443/", {}, "https://api.example:6443"),
        ("https://rancher.example/k8s/clusters/c-1", {}, "https://rancher.example/k8s/clusters/c-1"),
        ("https://[::1]:6443", {}, "https://[::1]:6443"),
        ("api.example:6443", {"insecure-skip-tls-verify": True}, "https://api.example:6443"),
        ("localhost:8001", {}, "http://localhost:8001"),
    ],
)
def test_servers(tmp_path: Path, server: str, cluster: dict[str, Any], expected: str) -> None:
    assert load(write(tmp_path / "config", config({"server": server, **cluster}))).server == expected


def test_certificates_as_data_and_as_files(tmp_path: Path, authority: Authority) -> None:
    pair = authority.client("ann")
    (tmp_path / "config.d").mkdir()
    pair.write(tmp_path / "config.d", "ann")
    bundle = b"# Autorit\xe9 de certification\n" + authority.pem
    (tmp_path / "config.d" / "ca.crt").write_bytes(bundle)
    files = load(
        write(
            tmp_path / "config.d" / "config",
            config(
                {"certificate-authority": "ca.crt", "tls-server-name": "kubernetes"},
                {"client-certificate": "ann.crt", "client-key": "ann.key"},
            ),
        )
    )
    encoded = {
        "certificate-authority-data": base64.b64encode(bundle).decode(),
        "certificate-authority": "away", "tls-server-name": "kubernetes",
    }  # fmt: skip
    user = {
        "client-certificate-data": base64.b64encode(pair.certificate).decode(),
        "client-key-data": base64.b64encode(pair.key).decode(),
        "client-key": "away",
    }
    data = load(write(tmp_path / "data", config(encoded, user)))
    for endpoint in (files, data):
        assert endpoint.server_name == "kubernetes"
        assert endpoint.authorities is not None
        assert endpoint.authorities.strip() == authority.pem.decode().strip()
        assert endpoint.certificate is not None
        assert (endpoint.certificate.certificate, endpoint.certificate.key) == (pair.certificate, pair.key)
    assert {path.name for path in files.files} == {"config", "ca.crt", "ann.crt", "ann.key"}
    assert {path.name for path in data.files} == {"data"}


def test_several_files_are_merged_as_kubectl_does(tmp_path: Path) -> None:
    """The first file wins, entry by entry; relative paths begin at the file that has them."""
    write(tmp_path / "two" / "token", "from-two")
    one = config(
        {"server": "https://one.example"}, users=None, clusters=[{"name": "x", "cluster": {}}],
        contexts=[{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    )  # fmt: skip
    two = config(
        {"server": "https://two.example"}, {"tokenFile": "token"},
        contexts=[{"name": "here", "context": {"cluster": "x", "user": "x"}}], **{"current-context": "other"},
    )  # fmt: skip
    endpoint = load(
        write(tmp_path / "one" / "config", one), tmp_path / "away", write(tmp_path / "two" / "config", two)
    )
    assert (endpoint.server, endpoint.authorization) == ("https://two.example", "Bearer from-two")
    # A missing file may appear later.
    assert tmp_path / "away" in endpoint.files


def test_nulls_and_unknown_keys_are_no_errors(tmp_path: Path) -> None:
    content = config(
        {"certificate-authority": None, "extensions": None, "later": 1},
        {"token": "abc", "exec": None, "as-groups": None},
        preferences={}, **{"another-key": [1]},
    )  # fmt: skip
    assert load(write(tmp_path / "config", content)).authorization == "Bearer abc"
    assert load(write(tmp_path / "config", json.dumps(content))).authorization == "Bearer abc"


PEM = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").decode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("][", "not YAML"),
        (f"token: {SECRET}\n\tx: 1", "not YAML"),
        ("a: b: c", "not YAML: mapping values are not allowed"),
        ("[]", "the file"),
        ("just text", "the file"),
        ("clusters: 7", "clusters: "),
        ({}, "no current-context is set; run 'kubectl config use-context NAME'"),
        (config() | {"current-context": ""}, "kubectl config use-context NAME' (there are: here)"),
        (config() | {"current-context": "gone"}, "names 'gone', which is not a context in it"),
        (context(cluster="z"), "names the cluster 'z', which is not"),
        (context(cluster="c", user="z"), "names the user 'z', which is not in it"),
        (context(), "names the cluster ''"),
        (config(users=[{"name": "u"}, {"name": "u"}]), "the user 'u' occurs twice"),
        (config({"server": ""}), "has no server"),
        (config({"server": "ftp://x"}), "server is not the URL of an API server"),
        (config({"server": "https://"}), "server is not the URL of an API server"),
        (config({"server": "https://x:port"}), "server is not the URL of an API server"),
        (config({"server": f"https://u:{SECRET}@x"}), "server is not the URL of an API server"),
        (config({"proxy-url": f"socks5://u:{SECRET}@proxy:1080"}), "a proxy of the kind socks5://"),
        (config({"proxy-url": f"{SECRET}"}), "proxy-url is not the URL of a proxy"),
        (config({"certificate-authority": "away"}), "certificate-authority: "),
        (config({"certificate-authority-data": "%%%"}), "certificate-authority-data is not base64"),
        (config({"certificate-authority-data": "AAAA"}), "certificate-authority contains no PEM certificate"),
        (config({"certificate-authority-data": PEM, "insecure-skip-tls-verify": True}), "exclude each"),
        (config({"insecure-skip-tls-verify": "yes"}), "clusters[0].cluster.insecure-skip-tls-verify: "),
        (config(user={"token": 12345}), "users[0].user.token: input should be a valid string"),
        (config(user={"token": f"{SECRET}\nb"}), "token contains line breaks or control characters"),
        (config(user={"tokenFile": "away"}), "tokenFile: "),
        (config(user={"token": SECRET, "password": SECRET}), "has a token and a password"),
        (config(user={"client-certificate-data": "AAAA"}), "client-certificate without client-key"),
        (config(user={"as-groups": ["dev"]}), "need an 'as'"),
        (config(user={"as": "a\nb"}), "Impersonate-User contains line breaks"),
        (config(user={"auth-provider": {"name": "gcp", "config": {"access-token": SECRET}}}),
         "auth-provider 'gcp' of the user 'u' is not supported; use an exec plugin"),
        (config(user={"auth-provider": {"name": "oidc", "config": {"refresh-token": SECRET}}}), "'oidc'"),
        (config(user={"auth-provider": {"name": "azure"}, "exec": EXEC}), "both exec and auth-provider"),
        (config(user={"exec": {**EXEC, "command": ""}}), "command is missing"),
        (config(user={"exec": {**EXEC, "command": "no-such-program", "installHint": "Get it\nfrom x"}}),
         "there is no program 'no-such-program'; install it; Get it from x"),
        (config(user={"exec": {**EXEC, "apiVersion": "client.authentication.k8s.io/v1alpha1"}}),
         "apiVersion 'client.authentication.k8s.io/v1alpha1' is not supported"),
        (config(user={"exec": {**EXEC, "interactiveMode": None}}), "interactiveMode is ''"),
        (config(user={"exec": {**EXEC, "interactiveMode": "never"}}), "interactiveMode is 'never'"),
    ],
)  # fmt: skip
def test_one_line_says_what_to_do(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refusal(tmp_path, content)


def test_a_file_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"config: No such file or directory; set KUBECONFIG, or run"
    ):
        load(tmp_path / "config")
    with pytest.raises(ConfigurationError, match="no such file; set KUBECONFIG"):
        load(tmp_path / "one", tmp_path / "two")
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load(tmp_path)


def test_the_command_line_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "datastorage", "run"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
        env=as_in_image(os.environ) | {
            "KUBECONFIG": str(write(tmp_path / "config", "")),
            "DATASTORAGE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
            "DATASTORAGE_EMBEDDING_PROVIDER": "none",
        },
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2,
        f"datastorage: kubeconfig {tmp_path / 'config'}: the file is empty\n",
    )


@pytest.fixture
def pod(tmp_path: Path, authority: Authority) -> Path:
    """The files that kubelet gives a pod."""
    (tmp_path / "token").write_text("the-token\n")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("10.96.0.1", "https://10.96.0.1:6443"),
        ("fd00:10:96::1", "https://[fd00:10:96::1]:6443"),
        ("[fd00:10:96::1]", "https://[fd00:10:96::1]:6443"),
        ("kubernetes.default.svc", "https://kubernetes.default.svc:6443"),
    ],
)
@pytest.mark.parametrize("named", [{}, {"KUBECONFIG": ""}])
def test_in_a_pod(pod: Path, host: str, server: str, named: dict[str, str]) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443", **named}
    endpoint = load_endpoint(environment, service_account=pod)
    assert (endpoint.server, endpoint.authorization) == (server, "Bearer the-token")
    assert endpoint.authorities is not None
    assert {path.name for path in endpoint.files} == {"token", "ca.crt"}


def test_the_namespace_of_the_pod(pod: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert pod_namespace(environment, service_account=pod) is None, "without the file nobody knows"
    (pod / "namespace").write_text("team-archive\n")
    assert pod_namespace(environment, service_account=pod) == "team-archive"
    assert pod_namespace({}, service_account=pod) is None, "this is no pod"


def test_a_named_kubeconfig_goes_before_the_pod(pod: Path) -> None:
    path = write(pod / "config", config())
    pod_environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert load(path, **pod_environment).server == "https://api.example:6443"


@pytest.mark.parametrize("name", ["token", "ca.crt"])
@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_pod_without_its_files_is_one_line(pod: Path, name: str, content: str | None) -> None:
    if content is None:
        (pod / name).unlink()
    else:
        (pod / name).write_text(content)
    with pytest.raises(ConfigurationError, match=r"^the pod's ServiceAccount: .*"):
        load_endpoint(
            {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, service_account=pod
        )


SERVER = "https://api.example:6443"


@pytest.mark.parametrize(
    ("environment", "server", "proxy"),
    [
        ({}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, SERVER, "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, SERVER, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128"}, SERVER, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://api.example", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "x, api.example"}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "example"}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example"}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*.example"}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".api.example"}, SERVER, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "pi.example"}, SERVER, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "api.example:443"}, SERVER, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "api.example:6443"}, SERVER, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.96.0.0/12"}, "https://10.97.0.1", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.96.0.0/16"}, "https://10.97.0.1", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "fd00::/8"}, "https://[fd00::1]:443", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "fd00::1"}, "https://[fd00:0::1]:443", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "[fd00::1]:443"}, "https://[fd00::1]:443", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://127.0.0.1:6443", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://[::1]:6443", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://localhost:6443", None),
    ],
)  # fmt: skip
def test_the_proxy_of_the_environment(
    tmp_path: Path, environment: dict[str, str], server: str, proxy: str | None
) -> None:
    path = write(tmp_path / "config", config({"server": server}))
    assert load(path, **environment).proxy == proxy


def test_the_kubeconfigs_proxy_goes_before_that_of_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "config", config({"proxy-url": "https://mine:3128"}))
    assert load(path, HTTPS_PROXY="http://proxy:3128", NO_PROXY="*").proxy == "https://mine:3128"


def test_a_proxy_of_the_environment_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "config", config())
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY names a proxy of the kind socks5h://"):
        load(path, HTTPS_PROXY="socks5h://proxy:1080")
