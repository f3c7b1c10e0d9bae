"""The chart is made from the manifests, the same each time; e2e/test_chart.py has Helm read it."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml

from datastorage import __version__
from harness import REPOSITORY
from harness.chart.build import NAME, chart_files, packed
from harness.chart.yamltext import TemplateText


def test_equal_sources_make_an_equal_archive(tmp_path: Path) -> None:
    for folder, seed, zone in (("first", "1", "UTC"), ("second", "2", "Asia/Tokyo")):
        subprocess.run(
            [sys.executable, "-m", "harness.chart", "--output", str(tmp_path / folder)],
            cwd=REPOSITORY,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "TZ": zone},
        )
    [first, second] = [next((tmp_path / folder).iterdir()) for folder in ("first", "second")]
    assert first.name == second.name == f"{NAME}-{__version__}.tgz"
    assert first.read_bytes() == second.read_bytes() == packed(chart_files())


def test_the_archive_is_that_of_a_chart() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(chart_files()))) as archive:
        names = archive.getnames()
        chart = archive.extractfile(f"{NAME}/Chart.yaml")
        assert chart is not None
        assert yaml.safe_load(chart.read())["appVersion"] == __version__
        assert {entry.mode for entry in archive} == {0o644}
    assert {name.partition("/")[0] for name in names} == {NAME}
    for name in ("README.md", "LICENSE", "values.yaml", "values.schema.json", "templates/NOTES.txt"):
        assert f"{NAME}/{name}" in names


def test_the_readme_has_every_value() -> None:
    text = chart_files()["README.md"]
    assert "](" not in text
    values = yaml.safe_load(chart_files()["values.yaml"])
    for name in values:
        assert f"| `{name}" in text


def test_the_chart_says_nothing_about_the_namespace_of_the_manifests() -> None:
    for name, text in chart_files().items():
        if name.startswith("templates/"):
            assert "datastorage-system" not in text, name


def test_text_of_a_manifest_is_never_an_action() -> None:
    text = TemplateText()
    document = {
        "message": "{{ not an action }}",
        "count": text.inline("{{ .Values.count }}"),
        "list": [
            {"a": 1},
            text.block("{{- with .Values.more }}", "{{- toYaml . | nindent +2 }}", "{{- end }}"),
        ],
        "map": {text.block("extra: {{ .Values.extra }}"): None},
    }
    assert text.write(document) == (
        """message: '{{ "{{" }} not an action }}'\n"""
        "count: {{ .Values.count }}\n"
        "list:\n"
        "  - a: 1\n"
        "  {{- with .Values.more }}\n"
        "  {{- toYaml . | nindent 4 }}\n"
        "  {{- end }}\n"
        "map:\n"
        "  extra: {{ .Values.extra }}\n"
    )
