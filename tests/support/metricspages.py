"""Pages of metrics that tests write by the declarations of the metrics, and servers that show them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from yarl import URL

from datastorage.metrics import BUILD_INFO, PROCESS_START
from datastorage.replicas.page import BUCKETS, Metric, Page, name_of


def counted(metric: Metric, value: float, **labels: str) -> str:
    """Return the line of one series of a counter or a gauge."""
    return _line(name_of(metric), value, labels)


def bucket(metric: Metric, bound: float, value: float) -> str:
    """Return the line of one bucket of a histogram."""
    return _line(name_of(metric) + BUCKETS, value, {"le": "+Inf" if bound == float("inf") else str(bound)})


def page_text(*lines: str, version: str = "1.2.3", started: float = 1_700_000_000.0) -> str:
    """Return a page of a process that was started at that time."""
    built = _line(name_of(BUILD_INFO), 1.0, {"version": version})
    return "\n".join((built, f"{PROCESS_START} {started}", *lines)) + "\n"


def page(*lines: str, version: str = "1.2.3", started: float = 1_700_000_000.0) -> Page:
    """Return a parsed page of a process that was started at that time."""
    return Page.parsed(page_text(*lines, version=version, started=started))


@asynccontextmanager
async def shown(text: Callable[[], web.StreamResponse]) -> AsyncIterator[URL]:
    """Serve what ``text`` returns at `/metrics`; yield the URL of the server."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return text()

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield URL.build(scheme="http", host=host, port=port)
    finally:
        await runner.cleanup()


def _line(name: str, value: float, labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{label}="{word}"' for label, word in labels.items())
    return f"{name}{{{inner}}} {value}"
