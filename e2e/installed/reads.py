"""Reads at a steady rate, and counts what was not answered. It runs in the cluster, in the product's image.

Its only argument is JSON with the fields of ``Plan``. It prints ``started`` when reads are answered
steadily, and the counts as JSON when its input ends. It has to get by with what the image has.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

_EXAMPLES = 10
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Plan:
    """What is read, and how."""

    urls: Sequence[str]
    """Taken in turn."""
    token_file: str
    per_second: float
    connect_seconds: float
    """A connection that does not open for so long has failed."""
    patience_seconds: float
    """A read is tried again for so long, as a client does which meets a broken connection."""
    try_seconds: float = 10.0
    """A try without an answer for so long has failed."""
    steady: int = 100
    """Reads count as soon as so many in a row were answered. After an earlier fault, the nodes may still send
    some connections of a Service to pods that are gone."""
    at_once: int = 200
    """Reads under way; while there are as many, no new one begins."""


@dataclass
class Counts:
    """What became of the reads."""

    sent: int = 0
    failed: int = 0
    """Those whose first try failed."""
    unanswered: int = 0
    """Those that were not answered by any try."""
    slowest_seconds: float = 0.0
    seconds: float = 0.0
    """How long reads were sent."""
    examples: list[str] = field(default_factory=list)
    """The first failures, with the seconds since the start."""

    def __str__(self) -> str:
        rate = self.sent / self.seconds if self.seconds else 0
        return (
            f"{self.sent} reads at {rate:.0f}/s, {self.failed} failed at the first try, "
            f"{self.unanswered} unanswered, the slowest took {self.slowest_seconds:.1f} s"
        )


class Reader:
    """Sends the reads of a plan, one half over new connections and the other half over kept ones."""

    def __init__(self, plan: Plan) -> None:
        self.counts = Counts()
        self.answered = asyncio.Event()
        """Set while reads count."""
        if not plan.steady:
            self.answered.set()
        self._in_a_row = 0
        self._plan = plan
        self._room = asyncio.Semaphore(plan.at_once)
        self._began = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Read until ``stop`` is set, and end what is under way."""
        token = Path(self._plan.token_file).read_text().strip()  # noqa: ASYNC240 -- before anything runs
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(self._plan.try_seconds, sock_connect=self._plan.connect_seconds)
        # The address of a Service stays. Reads are counted here, not look-ups of names.
        fresh = aiohttp.TCPConnector(force_close=True, limit=0, ttl_dns_cache=None)
        kept = aiohttp.TCPConnector(limit=0, ttl_dns_cache=None)
        async with (
            aiohttp.ClientSession(connector=fresh, headers=headers, timeout=timeout) as over_new,
            aiohttp.ClientSession(connector=kept, headers=headers, timeout=timeout) as over_kept,
            asyncio.TaskGroup() as group,
        ):
            self._began = due = time.monotonic()
            sessions = itertools.cycle((over_new, over_kept))
            for url in itertools.cycle(self._plan.urls):
                await self._room.acquire()
                if stop.is_set():
                    break
                group.create_task(self._read(next(sessions), over_new, url))
                due = max(due + 1 / self._plan.per_second, time.monotonic() - 1)
                await asyncio.sleep(due - time.monotonic())
            self.counts.seconds = time.monotonic() - self._began

    async def _read(self, session: aiohttp.ClientSession, others: aiohttp.ClientSession, url: str) -> None:
        began = time.monotonic()
        try:
            if not self.answered.is_set():
                self._note(await self._try(session, url))
                return
            self.counts.sent += 1
            trouble = await self._try(session, url)
            if trouble is not None:
                self.counts.failed += 1
                if len(self.counts.examples) < _EXAMPLES:
                    self.counts.examples.append(f"{began - self._began:.1f} s: {trouble}")
            while trouble is not None:
                if time.monotonic() - began >= self._plan.patience_seconds:
                    self.counts.unanswered += 1
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
                trouble = await self._try(others, url)
            self.counts.slowest_seconds = max(self.counts.slowest_seconds, time.monotonic() - began)
        finally:
            self._room.release()

    def _note(self, trouble: str | None) -> None:
        self._in_a_row = 0 if trouble is not None else self._in_a_row + 1
        if self._in_a_row == self._plan.steady:
            self._began = time.monotonic()
            self.answered.set()

    async def _try(self, session: aiohttp.ClientSession, url: str) -> str | None:
        """Return None for an answer with the record, otherwise what came in its place."""
        try:
            async with session.get(url) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return None if response.status == 200 else f"{response.status}: {body[:200]!r}"


async def _main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    reader, stop = Reader(plan), asyncio.Event()
    reading = asyncio.create_task(reader.run(stop))
    started = asyncio.create_task(reader.answered.wait())
    await asyncio.wait({reading, started}, return_when=asyncio.FIRST_COMPLETED)
    print("started", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await reading
    print(json.dumps(asdict(reader.counts)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
