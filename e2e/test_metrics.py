"""The metrics of a real operator: all series are there at once, work makes no others, `top` reads them."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from datastorage import __version__
from datastorage.metrics import Guard, Limit
from datastorage.resources.kinds import AUDIT_RECORD
from e2e.workbench import Workbench
from harness.bulk import BulkClient
from harness.manifests import audit_record
from harness.operatorprocess import OperatorProcess
from harness.polling import DEADLINE_SECONDS, until

_MOST: Final = 2_000
_GUARD: Final = "datastorage_guard_in_force"
_STORED: Final = 'datastorage_write_total{status="success",table="audit_records"}'

Series = frozenset[tuple[str, frozenset[tuple[str, str]]]]


def _series(operator: OperatorProcess) -> Series:
    return frozenset(
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(operator.metrics())
        for sample in family.samples
    )


def _status_of(operator: OperatorProcess, path: str, method: str) -> int:
    request = urllib.request.Request(operator.api_url + path, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _top(operator: OperatorProcess) -> dict[str, Any]:
    """Return what `datastorage top` shows of the operator and its archive."""
    options = ("--once", "--interval", "0.5", "-o", "json")
    printed = operator.datastorage("top", "--metrics-url", operator.metrics_url, *options).stdout
    look: dict[str, Any] = json.loads(printed)
    return look


async def test_work_makes_no_series_and_top_shows_it(workbench: Workbench, client: BulkClient) -> None:
    operator = workbench.start_operator(TTL_SECONDS_AFTER_STORED=1)

    async def guards_are_known() -> bool:
        return _GUARD in {name for name, _ in await asyncio.to_thread(_series, operator)}

    await until(guards_are_known, what="the guards have been looked at")
    before = await asyncio.to_thread(_series, operator)
    assert len(before) <= _MOST
    assert operator.metric(_STORED) == 0

    for number in range(3):
        await client.create(AUDIT_RECORD, workbench.namespace, audit_record(f"record-{number}"))

    async def cleared() -> bool:
        return not await client.list(AUDIT_RECORD, workbench.namespace)

    await until(cleared, what="the records are stored and cleared")
    asked = [
        ("/health", "GET", 200), ("/health", "HEAD", 200), ("/version", "GET", 200), ("/nothing", "GET", 404),
        ("/api/v1/export", "GET", 401), ("/api/v1/query/workflow/x", "GET", 401),
        ("/api/v1/store/workflow", "POST", 401), ("/api/v1/store/workflow", "PUT", 405),
        ("/api/v1/summary", "SING", 405),
    ]  # fmt: skip
    for path, method, status in asked:
        assert await asyncio.to_thread(_status_of, operator, path, method) == status, (path, method)
    assert operator.metric(_STORED) == 3
    assert await asyncio.to_thread(_series, operator) == before

    look = await asyncio.to_thread(_top, operator)
    [replica] = look["replicas"]
    assert (replica["trouble"], replica["version"]) == (None, __version__)
    assert replica["upSeconds"] > 0
    assert look["rateSeconds"] >= 0.5
    numbers = look["perSecond"] | look["depths"] | look["lagSeconds"]
    # Nothing is stored while it looks. All other numbers are known: the replica has their series.
    assert {name for name, value in numbers.items() if value is None} == {"createdToStoredP95"}
    assert {"name": "postgres", "awayFor": []} in look["dependencies"]
    assert {guard["name"] for guard in look["guards"]} == set(Guard)
    assert {limit["name"] for limit in look["limits"]} == set(Limit)
    assert look["rejected"] == {"records": [], "trouble": None}
