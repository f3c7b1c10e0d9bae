"""A client of the REST API that measures: as many requests at a time as connections, or a fixed pace."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.measuredoperator import MeasuredOperator
from benchmarks.progress import say
from benchmarks.results import Result, latency_of

CONNECTIONS: Final = 32
PACE: Final = 200
"""Requests per second where the latency is measured, unless another pace is named."""
_ACCOUNT: Final = ("datastorage-system", "benchmark-producer")
_ROLES: Final = ("datastorage-archive-reader", "datastorage-archive-exporter")

Send = Callable[[int], Awaitable[None]]
"""Sends the request of that number."""


@dataclass(frozen=True)
class RestClient:
    """The API as a caller with a token sees it."""

    session: aiohttp.ClientSession
    url: str

    async def post(self, body: Any, wanted: int) -> Any:
        """Store one record or many. Raises BenchmarkError for another status than the one that is wanted."""
        async with self.session.post(f"{self.url}/api/v1/store/remediation", json=body) as response:
            return await _checked(response, wanted)

    async def get(self, path: str, **query: str) -> Any:
        """Ask. Raises BenchmarkError for another status than 200."""
        async with self.session.get(f"{self.url}/api/v1{path}", params=query) as response:
            return await _checked(response, 200)

    async def export(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the lines of the whole archive, which come uncompressed."""
        plain, whole = {"Accept-Encoding": "identity"}, aiohttp.ClientTimeout(total=None)
        async with self.session.get(f"{self.url}/api/v1/export", headers=plain, timeout=whole) as response:
            if response.status != 200:
                raise BenchmarkError(f"export: {response.status} {(await response.read())[:300]!r}")
            async for chunk in response.content.iter_any():
                yield chunk


async def _checked(response: aiohttp.ClientResponse, wanted: int) -> Any:
    body = await response.read()
    if response.status != wanted:
        raise BenchmarkError(f"{response.method} {response.url.path}: {response.status} {body[:300]!r}")
    return json.loads(body)


@asynccontextmanager
async def rest_client(bench: Bench, operator: MeasuredOperator) -> AsyncIterator[RestClient]:
    """Open connections to the API of an operator, with the token of the benchmark's account."""
    headers = {"Authorization": f"Bearer {await asyncio.to_thread(_token, bench)}"}
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield RestClient(session, operator.api_url)


def _token(bench: Bench) -> str:
    namespace, name = _ACCOUNT
    kubectl = bench.control_plane.kubectl
    for role in _ROLES:
        binding = kubectl(
            "create", "clusterrolebinding", f"benchmark-{role}", f"--clusterrole={role}",
            f"--serviceaccount={namespace}:{name}", "--dry-run=client", "--output=yaml",
        )  # fmt: skip
        kubectl("apply", "-f", "-", input=str(binding.stdout))
    made = kubectl("create", "token", name, "-n", namespace, "--audience", "datastorage")
    return str(made.stdout).strip()


async def at_once(operator: MeasuredOperator, count: int, send: Send) -> tuple[float, float]:
    """Send ``count`` requests, always as many at a time; return requests/s and CPU ms for each."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await send(number)

    started, cpu = time.monotonic(), operator.cpu_seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(min(CONNECTIONS, count)):
            group.create_task(work())
    seconds = time.monotonic() - started
    return round(count / seconds, 1), round(1000 * (operator.cpu_seconds - cpu) / count, 2)


async def paced(scenario: str, title: str, count: int, send: Send, *, pace: int = PACE) -> Result:
    """Send requests at a fixed pace, and measure each from the time at which it was due."""
    say(f"    {title}")
    count = max(1, count)
    latencies: list[float] = []
    begin = time.monotonic() + 0.1

    async def one(number: int) -> None:
        due = begin + number / pace
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await send(number)
        latencies.append(time.monotonic() - due)

    await asyncio.gather(*(one(number) for number in range(count)))
    return Result(scenario, title, count, {}, latency=latency_of(latencies))
