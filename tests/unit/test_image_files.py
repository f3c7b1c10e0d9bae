"""The files of the image: what is taken out of the base, and what is left out."""

import stat
from pathlib import Path, PurePosixPath

import pytest

from harness.image.packages import fields, owners
from harness.image.rootfs import is_omitted, is_unused, linked_libraries
from harness.image.tree import TIME, Tree, settle

_LDD = """/usr/bin/python3.11:
\tlinux-vdso.so.1 (0x00007ffd4b5f2000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f2b0e0ab000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f2b0e1a6000)
/usr/lib/python3.11/lib-dynload/_tkinter.so:
\tlibtk8.6.so => not found
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with a library behind two links, one of them a folder's, and with a program beside it."""
    libraries = tmp_path / "base/usr/lib/arch"
    libraries.mkdir(parents=True)
    (tmp_path / "base/lib").symlink_to("usr/lib")
    (libraries / "libone.so.1.2").write_text("one")
    (libraries / "libone.so.1").symlink_to("libone.so.1.2")
    (libraries / "absolute.so").symlink_to("/lib/arch/libone.so.1")
    (tmp_path / "base/usr/bin").mkdir()
    (tmp_path / "base/usr/bin/sh").write_text("shell")
    return tmp_path / "base"


def _paths(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()}


@pytest.mark.parametrize("path", ["/lib/arch/absolute.so", "/usr/lib/arch/absolute.so"])
def test_a_file_comes_with_all_links_that_lead_to_it(base: Path, tmp_path: Path, path: str) -> None:
    new = tmp_path / "new"
    tree = Tree(base, new)
    tree.take(Path(path))
    links = {"usr/lib/arch/absolute.so", "usr/lib/arch/libone.so.1", "lib"}
    assert _paths(new) == links | {"usr/lib/arch/libone.so.1.2"}
    assert all((new / link).is_symlink() for link in links)
    assert (new / "usr/lib/arch/libone.so.1.2").read_text() == "one"
    assert tree.files == {Path("/usr/lib/arch/libone.so.1.2")}


def test_a_folder_comes_without_what_is_omitted(base: Path, tmp_path: Path) -> None:
    Tree(base, tmp_path / "new", lambda path: path.name == "bin").take(Path("/usr"))
    assert "usr/bin/sh" not in _paths(tmp_path / "new")
    assert "usr/lib/arch/libone.so.1.2" in _paths(tmp_path / "new")


def test_a_path_that_the_base_has_not_is_passed_over(base: Path, tmp_path: Path) -> None:
    tree = Tree(base, tmp_path / "new")
    (base / "nowhere").symlink_to("absent")
    for path in ("/usr/absent/file", "/nowhere"):
        tree.take(Path(path))
    assert tree.files == set()


def test_settled_files_depend_on_no_umask_and_no_clock(tmp_path: Path) -> None:
    modes = {"plain": 0o600, "program": 0o4711, "group": 0o664}
    for name, mode in modes.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("absent")
    settle(tmp_path)
    found = {
        path.name: stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.iterdir() if not path.is_symlink()
    }
    assert found == {"plain": 0o644, "program": 0o755, "group": 0o644, "tmp": 0o1777, "folder": 0o755}
    assert {path.lstat().st_mtime for path in (tmp_path, *tmp_path.iterdir())} == {TIME}


def test_the_libraries_that_a_program_is_linked_with_are_found() -> None:
    """A module of the standard library that does not load in the base either, such as Tk's, is no fault."""
    assert linked_libraries(_LDD) == {
        Path("/lib/x86_64-linux-gnu/libm.so.6"),
        Path("/lib64/ld-linux-x86-64.so.2"),
    }


def test_a_package_with_a_missing_library_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.image.rootfs._ENVIRONMENT", Path("/opt/datastorage"))
    listing = "/opt/datastorage/lib/one.so:\n\tlibgone.so.1 => not found\n"
    with pytest.raises(SystemExit, match=r"one\.so needs a library that the base image has not: libgone"):
        linked_libraries(listing)


@pytest.mark.parametrize(
    ("path", "unused"),
    [
        ("numpy/linalg/tests", True),
        ("numpy/linalg/linalg.py", False),
        ("numpy/_core/lib/libnpymath.a", True),
        ("numpy-2.4.6.dist-info/licenses/LICENSE.txt", False),
        ("zstandard/_cffi.cpython-311-x86_64-linux-gnu.so", True),
        ("zstandard/backend_c.cpython-311-x86_64-linux-gnu.so", False),
        ("wordllama", False),
        ("wordllama/__init__.py", False),
        ("wordllama/weights", False),
        ("wordllama/weights/l2_supercat_256.safetensors", False),
        ("wordllama/inference.py", True),
        ("wordllama-0.4.0.dist-info/licenses/LICENSE", False),
        ("datastorage/storage/migrations/archive/0001_records.sql", False),
    ],
)
def test_only_what_is_never_loaded_is_left_out(path: str, *, unused: bool) -> None:
    assert is_unused(PurePosixPath(path)) is unused


@pytest.mark.parametrize(
    ("path", "omitted"),
    [
        ("ssl.py", False),
        ("asyncio/__pycache__", True),
        ("lib2to3/tests", True),  # some of it is no Python 3
        ("unittest/mock.py", False),
        ("tkinter", True),
        ("config-3.11-x86_64-linux-gnu", True),
        ("site-packages", True),
        ("json/tool.py", False),
        ("lib-dynload/_ssl.so", False),
    ],
)
def test_the_standard_library_comes_without_tests_and_windows(
    monkeypatch: pytest.MonkeyPatch, path: str, *, omitted: bool
) -> None:
    library = Path("/usr/local/lib/python3.11")
    monkeypatch.setattr("harness.image.rootfs._STANDARD_LIBRARY", library)
    assert is_omitted(library / path) is omitted


def test_packages_are_found_by_their_files(tmp_path: Path) -> None:
    """Packages name libraries by the paths that they had before /lib became a link."""
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "libc6:amd64.list").write_text("/.\n/lib/arch/libc.so.6\n/usr/share/doc/libc6/copyright\n")
    (info / "bash.list").write_text("/bin/bash\n")
    paragraphs = (
        "Package: bash\nVersion: 5.2\n",
        "Package: libc6\nVersion: 2.36-9\nDescription: library\n Version: not this\n",
    )
    (tmp_path / "var/lib/dpkg/status").write_text("\n".join(paragraphs))
    found = owners(tmp_path, [Path("/usr/lib/arch/libc.so.6"), Path("/etc/nobodys")])
    assert found == {"libc6": paragraphs[1]}
    assert fields(found["libc6"]) == {"Package": "libc6", "Version": "2.36-9", "Description": "library"}


def test_a_base_without_dpkg_has_no_packages(tmp_path: Path) -> None:
    assert owners(tmp_path, [Path("/usr/lib/libc.so.6")]) == {}
    assert list(tmp_path.iterdir()) == []
