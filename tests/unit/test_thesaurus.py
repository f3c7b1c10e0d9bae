"""The thesaurus: what a file may say, and what the operator is told if it says something else."""

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from datastorage.errors import ConfigurationError
from datastorage.settingsgroups import ThesaurusSettings
from datastorage.thesaurus.document import MAX_GROUPS, MAX_MEMBERS, MAX_WORDS, parse
from datastorage.thesaurus.loading import load_groups

_GUIDES: Final = Path(__file__).parents[2] / "docs" / "guide"
_KNOWN: Final = ("certificate", "tls")


def _of(file: Path, *, enabled: bool = True) -> list[tuple[str, ...]]:
    return load_groups(ThesaurusSettings(enabled=enabled, file=str(file)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "thesaurus.toml"


def test_the_program_has_groups_of_the_field() -> None:
    groups = load_groups(ThesaurusSettings())
    assert len(groups) >= 100
    assert ("certificate", "cert", "x509") in groups
    assert any({"OOMKilled", "out of memory"} <= set(group) for group in groups)


def test_a_file_adds_replaces_and_leaves_out_groups(file: Path) -> None:
    file.write_text('[groups]\ncart = ["cart", "basket"]\ntls = ["TLS", "HTTPS"]\nmemory = []\n')
    before, after = load_groups(ThesaurusSettings()), _of(file)
    assert set(after) - set(before) == {("cart", "basket"), ("TLS", "HTTPS")}
    assert set(before) - set(after) == {("TLS", "SSL"), ("memory", "RAM", "mem")}


def test_a_file_may_leave_out_all_groups_of_the_program(file: Path) -> None:
    file.write_text('builtin = false\n[groups]\ncart = ["cart", "basket"]\n')
    assert _of(file) == [("cart", "basket")]


def test_the_files_of_the_guides_are_right(file: Path) -> None:
    """That of the section on synonyms is taken, and is mounted where its setting says."""
    searching = (_GUIDES / "searching.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```toml\n(.*?)```", searching, re.DOTALL)
    file.write_text(text)
    before, after = load_groups(ThesaurusSettings()), _of(file)
    assert len(set(after) - set(before)) == 3
    assert len(set(before) - set(after)) == 2

    install = (_GUIDES / "install.md").read_text(encoding="utf-8")
    section = install.partition("## Synonyms of your own\n")[2].partition("\n## ")[0]
    kustomization, values = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    files, settings = kustomization["configMapGenerator"]
    pod = yaml.safe_load(kustomization["patches"][0]["patch"])["spec"]["template"]["spec"]
    [setting] = settings["literals"]
    path = setting.removeprefix("DATASTORAGE_THESAURUS_FILE=")
    mounts, volumes = pod["containers"][0]["volumeMounts"], pod["volumes"]
    assert values["settings"] == {"DATASTORAGE_THESAURUS_FILE": path}
    assert (values["extraVolumeMounts"], values["extraVolumes"]) == (mounts, volumes)
    assert f"{mounts[0]['mountPath']}/{files['files'][0]}" == path
    assert volumes[0]["configMap"]["name"] == files["name"]


def test_an_empty_file_changes_nothing(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf# nothing yet\n")
    assert _of(file) == load_groups(ThesaurusSettings())


def test_a_thesaurus_that_is_switched_off_is_not_read(file: Path) -> None:
    assert _of(file, enabled=False) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cert = ["a", "b"]', "F, line 1: 'cert' is unknown here: put groups below the line [groups]"),
        ("[group]\n", "F, line 1: 'group' is unknown here: put groups below the line [groups]"),
        ("[groups]\na = [", ': write each group once, as NAME = ["word", "other word"]'),
        (
            '[groups]\na = ["b", "c"]\na = ["d", "e"]\n',
            "F is not TOML: cannot overwrite a value (at line 3, ",
        ),
        ("builtin = 0", "F, line 1: builtin has to be true or false"),
        ("[groups]\nbuiltin = false", "F, line 2: builtin belongs above the line [groups]: move it there"),
        ('groups = ["a"]', "F, line 1: put groups below the line [groups], each as NAME = [WORDS]"),
        ('[groups]\n\nA = ["b", "c"]', "F, line 3: group 'A': a name has small letters, digits and hyphens"),
        ('[groups]\na = "b"', 'F, line 2: group \'a\': write its members as ["word", "other word"]'),
        ("[groups]\na = [1, 2]", "F, line 2: group 'a': write its members as"),
        ("[groups.a]\nb = 1", "F, line 1: group 'a': write its members as"),
        (
            "[groups]\n'a' = ['b']",
            "F, line 2: group 'a': it has one member: add a synonym, or remove the group",
        ),
        ("[groups]\na = ['b', ' B.']", "F, line 2: group 'a': it has ' B.' twice: remove one of them"),
        ("[groups]\na = ['b', '--']", "F, line 2: group 'a': '--' has no letters or digits: remove it"),
        (
            f"[groups]\na = ['b', '{'w ' * (MAX_WORDS + 1)}']",
            f"has {MAX_WORDS + 1} words, and {MAX_WORDS} are",
        ),
        (
            f"[groups]\na = ['b', '{'w' * 101}']",
            "group 'a': a member has 101 characters, and 100 are allowed",
        ),
        (f"[groups]\na = {[f'w{n}' for n in range(MAX_MEMBERS + 1)]}", f"has {MAX_MEMBERS + 1} members, and"),
        (
            "[groups]\n" + "\n".join(f"g{n} = ['a', 'b']" for n in range(MAX_GROUPS + 1)),
            "F has 501 groups, and",
        ),
        ("[groups]\ncertificates = []", "there is none of this name: did you mean 'certificate'?"),
        ("[groups]\nxyzzy = []", "there is none of this name: remove it"),
        (
            "builtin = false\n[groups]\ntls = []",
            "it is empty, and builtin = false leaves out all others: remove",
        ),
    ],
)
def test_a_wrong_thesaurus_is_refused_with_the_place_and_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(text, "F", _KNOWN)
    assert message in str(error.value)
    assert str(error.value).startswith("F")
    assert "\n" not in str(error.value)


def test_the_largest_thesaurus_is_taken() -> None:
    members = [f"{'w ' * (MAX_WORDS - 1)}w{n}" for n in range(MAX_MEMBERS)]
    text = "[groups]\n" + "\n".join(f"g{n} = {members}" for n in range(MAX_GROUPS))
    assert len(parse(text, "F").groups) == MAX_GROUPS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read: No such file or directory"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"#" * (1024 * 1024 + 1), "can't be read: larger than 1 MiB"),
        (b"[groups]\ntls = ['x']", ", line 2: group 'tls': it has one member"),
    ],
)
def test_a_file_that_can_not_be_used_is_named_with_its_setting(
    file: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        _of(file)
    assert str(error.value).startswith(f"DATASTORAGE_THESAURUS_FILE: {file}")
    assert message in str(error.value)
