"""Files that settings name: one that is not a regular file of a sensible size is refused without waiting."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datastorage.errors import ConfigurationError
from datastorage.files import UnusableFileError, check_file, fingerprint, read_file
from datastorage.kube.endpoint import load_endpoint
from datastorage.storage.connection.tls import prepare_files
from datastorage.storage.connection.urls import parse_url
from tests.support.kubeconfig import write_kubeconfig

MIB = 1024 * 1024


def fifo(folder: Path) -> Path:
    path = folder / "fifo"
    os.mkfifo(path)
    return path


def zeros(folder: Path) -> Path:
    path = folder / "zeros"
    path.symlink_to("/dev/zero")
    return path


def huge(folder: Path) -> Path:
    path = folder / "huge"
    path.touch()
    os.truncate(path, 2**40)  # it takes no space on the disk
    return path


UNFIT = pytest.mark.parametrize(
    ("make", "reason"),
    [(fifo, "not a regular file"), (zeros, "not a regular file"), (huge, "larger than {limit} MiB")],
)


@UNFIT
@pytest.mark.parametrize("use", [read_file, check_file])
def test_an_unfit_file_is_refused_at_once(
    tmp_path: Path, use: Callable[[Path, int], object], make: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(UnusableFileError) as caught:
        use(make(tmp_path), MIB)
    assert caught.value.strerror == reason.format(limit=1)


@pytest.mark.parametrize("use", [read_file, check_file])
def test_the_operating_systems_own_errors_are_left_as_they_are(
    tmp_path: Path, use: Callable[[Path, int], object]
) -> None:
    with pytest.raises(FileNotFoundError):
        use(tmp_path / "away", MIB)
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        use(tmp_path, MIB)
    with pytest.raises(UnusableFileError, match="not the path of a file"):
        use(Path("a\0b"), MIB)


def test_a_file_may_have_just_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MIB)
    assert len(read_file(path, MIB)) == MIB
    with pytest.raises(UnusableFileError):
        read_file(path, MIB - 1)


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    assert fingerprint(path) is None
    path.write_text("one")
    first = fingerprint(path)
    assert first == fingerprint(path) is not None
    path.write_text("three")
    second = fingerprint(path)
    assert second != first
    other.write_text("three")
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.rename(path)
    assert fingerprint(path) != second
    assert fingerprint("a\0b") is None


@UNFIT
def test_a_kubeconfig_that_has_no_end_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        load_endpoint({"KUBECONFIG": str(path)})
    assert str(caught.value).startswith(f"kubeconfig {path}: {reason.format(limit=16)}; set KUBECONFIG")


@UNFIT
@pytest.mark.parametrize(
    ("cluster", "user", "setting"),
    [
        ({"certificate-authority": "{file}"}, {}, "certificate-authority"),
        ({}, {"tokenFile": "{file}"}, "tokenFile"),
        ({}, {"client-certificate": "{file}"}, "client-certificate"),
    ],
)
def test_a_file_that_a_kubeconfig_names_and_that_has_no_end_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], reason: str, cluster: dict[str, str], user: dict[str, str],
    setting: str,
) -> None:  # fmt: skip
    path = make(tmp_path)
    cluster, user = (
        {name: value.format(file=path) for name, value in entry.items()} for entry in (cluster, user)
    )
    config = write_kubeconfig(tmp_path / "config", {"server": "https://x", **cluster}, user)
    with pytest.raises(ConfigurationError) as caught:
        load_endpoint({"KUBECONFIG": str(config)})
    assert str(caught.value) == f"kubeconfig {config}: {setting}: {path}: {reason.format(limit=4)}"


@UNFIT
@pytest.mark.parametrize(
    "options",
    [
        "passfile={file}",
        "sslmode=verify-full&sslrootcert={file}",
        "sslmode=require&sslcrl={file}",
        "sslmode=prefer&sslcrl={file}",
        "sslkey={file}",
        "sslcert={file}",
        "sslcert={empty}&sslkey={file}",
    ],
)
def test_a_file_that_a_postgresql_url_names_and_that_has_no_end_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], reason: str, options: str
) -> None:
    path, empty = make(tmp_path), tmp_path / "empty"
    empty.touch()
    query = options.format(file=path, empty=empty)
    url = parse_url(f"postgresql://host/db?{query}", "DATASTORAGE_DATABASE_URL")
    with pytest.raises(ConfigurationError) as caught:
        prepare_files(url)
    assert str(caught.value).startswith("DATASTORAGE_DATABASE_URL: ")
    assert str(caught.value).endswith(f" names {path}, which is {reason.format(limit=64)}")


@UNFIT
def test_a_service_file_that_has_no_end_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    del reason
    path = make(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        parse_url(f"postgresql:///db?service=a&servicefile={path}", "DATASTORAGE_DATABASE_URL")
    assert str(caught.value) == (
        f"DATASTORAGE_DATABASE_URL: service=a needs the file {path}, which can't be read"
    )
