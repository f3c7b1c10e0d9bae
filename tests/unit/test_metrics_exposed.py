"""The metrics of a process with everything on, as its first scrape has them."""

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from datastorage import metrics
from datastorage.api.bodies import _FIELDS
from datastorage.api.observed import counted
from datastorage.cli.metricspage import series_at_most, served_by_all
from datastorage.metrics import CHAPTERS, Declared
from datastorage.metrics.declaring import Word
from datastorage.records.reasons import Reason
from datastorage.resources.kinds import Phase
from datastorage.resources.validation.problems import Code
from datastorage.settings import MAX_SHARDS

ROOT = Path(__file__).parents[2]
MOST_SERIES = 2_000
DECLARED = [metric for chapter in CHAPTERS for metric in chapter.metrics]

EVERYTHING = f"""
import datastorage.runtime.run
from prometheus_client import generate_latest
from datastorage import metrics
from datastorage.api.observed import Observed
from datastorage.cli.metricspage import served_by_all

Observed(None, served=served_by_all())
for shard in range({MAX_SHARDS}):
    metrics.LEASE_HELD.declare(f"datastorage-shard-{{shard}}-of-{MAX_SHARDS}")
for dependency in metrics.Dependency:
    metrics.DEPENDENCY_UP.declare(dependency)
for guard in metrics.Guard:
    metrics.GUARD_IN_FORCE.declare(guard)
for port in metrics.CertifiedPort:
    metrics.CERTIFICATE_END.declare(port)
print(generate_latest(metrics.REGISTRY).decode(), end="")
"""

Labels = frozenset[tuple[str, str]]


class Scrape:
    """The text of /metrics, and what it says."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [line for line in text.splitlines() if not line.startswith("#")]
        self.families = list(text_string_to_metric_families(text))
        self.values: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def scrape() -> Scrape:
    done = subprocess.run([sys.executable, "-c", EVERYTHING], capture_output=True, text=True, check=True)
    return Scrape(done.stdout)


def combinations(metric: Declared) -> list[tuple[str, ...]]:
    """Return the combinations of the labels' values that a process with everything on must have."""
    routes = list(counted(served_by_all()))
    api_fields = product(sorted({*_FIELDS, metrics.OTHER}), Code)
    of_objects = [(name, "time_out_of_range") for name in ("startTime", "endTime", "assessedAt", "expiresAt")]
    known: dict[str, list[tuple[str, ...]]] = {
        "http_server_requests_total": [
            (each.method, each.route, status)
            for each in routes
            for status in (*map(str, each.statuses), metrics.OTHER)
        ],
        "http_server_request_duration_seconds": [(each.method, each.route) for each in routes],
        "http_server_response_body_size_bytes": [(each.method, each.route) for each in routes],
        "http_server_request_body_size_bytes": [
            (each.method, each.route) for each in routes if each.method not in {"GET", "HEAD"}
        ],
        "datastorage_validation_failures_total": [
            *api_fields, *of_objects, ("record", "rejected"), ("object", "unreadable"),
        ],
        "datastorage_lease_held": [
            (f"datastorage-shard-{shard}-of-{MAX_SHARDS}",) for shard in range(MAX_SHARDS)
        ],
    }  # fmt: skip
    if metric.name in known:
        return known[metric.name]
    assert all(label.values for label in metric.labels), metric.name
    return list(product(*(label.values for label in metric.labels)))


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_every_series_is_in_the_first_scrape(scrape: Scrape, metric: Declared) -> None:
    if metric.type == "info":
        [value] = [value for (name, _), value in scrape.values.items() if name == metric.name]
        assert value == 1
        return
    suffix = "_count" if metric.type == "histogram" else ""
    found = {labels: value for (name, labels), value in scrape.values.items() if name == metric.name + suffix}
    names = [label.name for label in metric.labels]
    wanted = {frozenset(zip(names, map(str, each), strict=True)) for each in combinations(metric)}
    assert found.keys() == wanted
    assert set(found.values()) == {0}


def test_a_replica_with_everything_on_has_the_series_that_the_reference_states(scrape: Scrape) -> None:
    most = series_at_most()
    own = {metric.name: 0 for metric in DECLARED}
    others = 0
    for name, _ in scrape.values:
        base = name if name in own else re.sub(r"_(bucket|sum|count)$", "", name)
        if base in own:
            own[base] += 1
        else:
            others += 1
    assert own == most
    assert others <= 30, "of the process and of Python"
    assert len(scrape.lines) == sum(own.values()) + others <= MOST_SERIES
    assert f"at most {sum(most.values()):,} series" in (ROOT / "docs/reference/metrics.md").read_text()


def test_nothing_is_exported_that_is_not_declared(scrape: Scrape) -> None:
    declared = {metric.name for metric in DECLARED}
    exported = set(re.findall(r"^# TYPE (\S+)", scrape.text, re.MULTILINE))
    assert {name for name in exported if not name.startswith(("process_", "python_"))} == declared
    assert len(declared) == len(DECLARED)


# The rules of `promtool check metrics`.
_BASE_UNITS = {"seconds", "bytes", "celsius", "grams", "joules", "meters", "volts", "amperes"}
_OTHER_UNITS = r"(milli|micro|nano|kilo|mega|giga|kibi|mebi)(seconds|bytes)|minutes|hours|days|weeks|bits"
_ABBREVIATIONS = {*["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"]}
_TYPES = {"counter", "gauge", "summary", "untyped", "histogram"}


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_names_and_units_follow_the_conventions(scrape: Scrape, metric: Declared) -> None:
    parts = metric.name.split("_")
    assert re.fullmatch(r"(datastorage|http_server)(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert metric.name.endswith("_info") == (metric.type == "info")
    assert not metric.name.endswith(("_bucket", "_sum", "_count", "_created"))
    assert metric.name.endswith("_timestamp_seconds") <= (metric.type == "gauge")
    assert not {*parts} & (_ABBREVIATIONS | _TYPES)
    assert not [part for part in parts if re.fullmatch(_OTHER_UNITS, part)]
    units = [part for part in parts if part in _BASE_UNITS]
    # What has a unit ends with it, as do the suffixes of the type alone.
    assert not units or metric.name.removesuffix("_total").endswith(units[-1])
    if metric.type == "histogram":
        assert units or metric.name == "datastorage_batch_size"
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", label.name)
        assert label.name not in {"le", "quantile", "job", "instance", "namespace", "pod"}
    shown = metric.about.meaning.replace("\\", r"\\")
    assert f"# HELP {metric.name} {shown}\n" in scrape.text


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_each_metric_is_explained_to_people(metric: Declared) -> None:
    about = metric.about
    page = (ROOT / "docs/reference/metrics.md").read_text()
    assert f"\n### `{metric.name}`\n" in page
    assert f"```promql\n{about.query}\n```" in page
    assert about.meaning
    assert not about.meaning.endswith(".")
    assert about.normal.endswith(".")
    assert "\n" not in about.meaning + about.normal + about.query
    for label in metric.labels:
        assert label.meaning or all(isinstance(word, Word) and word.meaning for word in label.values)


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_queries_use_what_is_declared(scrape: Scrape, metric: Declared) -> None:
    query = metric.about.query
    used = re.findall(r"\b((?:datastorage|http_server)_[a-z_]+)(?:\{([^}]*)\})?", query)
    assert any(name.startswith(metric.name) for name, _ in used)
    for name, matchers in used:
        labels = [dict(found) for series, found in scrape.values if series == name]
        assert labels, f"no series {name}"
        for label, operator, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', matchers):
            known = {each[label] for each in labels}
            for alternative in value.split("|") if operator.endswith("~") else [value]:
                assert any(re.fullmatch(alternative, each) for each in known), f"no {label} {alternative}"
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        known = {label for series, found in scrape.values for label, _ in found if series == used[0][0]}
        assert {*grouped.split(", ")} - {"instance"} <= known


def test_the_objectives_are_buckets(scrape: Scrape) -> None:
    """An alert counts what was quicker than these."""

    def buckets(name: str) -> set[str]:
        return set(re.findall(rf'^{name}_bucket\{{.*?le="([^"]*)"', scrape.text, re.MULTILINE))

    assert "5.0" in buckets("datastorage_created_to_stored_seconds")
    assert "0.1" in buckets("datastorage_query_duration_seconds")
    assert {"0.1", "1.0"} <= buckets("http_server_request_duration_seconds")


def test_every_word_is_used() -> None:
    code = "".join(
        path.read_text()
        for path in (ROOT / "operator/datastorage").rglob("*.py")
        if path.parent.name != "metrics"
    )
    words = {
        type(word) for metric in DECLARED for label in metric.labels for word in label.values
        if isinstance(word, Word)
    }  # fmt: skip
    unused = {
        f"{each.__name__}.{word.name}"
        for each in words
        for word in each
        if not re.search(
            rf"\b{each.__name__}\.{word.name}\b|\bin {each.__name__}\b|\b{each.__name__}\(", code
        )
    }
    assert unused == set()


def test_words_with_other_names_in_the_program_are_the_same() -> None:
    assert {word.value for word in metrics.VectorFailure} <= {reason.label for reason in Reason}
    assert {word.value for word in metrics.MissingPhase} - {metrics.OTHER} <= {*Phase}
