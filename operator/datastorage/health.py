"""/health and /ready: the process is alive; the process can do its work.

/health fails only for what a restart would cure. An absent PostgreSQL is not among it: restarting would
bring nothing, and what was taken in is safest where it is. /ready tells of everything, and fails only for
what the work can't be done without.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

Check = Callable[[], Awaitable[str | None]]
"""Returns what is wrong in a sentence, or None."""

_OK: Final = "ok"
# A stop waits no longer for a request that is under way, or for who reads its answer slowly.
_SHUTDOWN_SECONDS: Final = 1.0


class HealthServer:
    """Serves both on one port."""

    def __init__(
        self,
        *,
        address: str,
        port: int,
        health: Mapping[str, Check],
        ready: Mapping[str, Check],
        ready_notes: Mapping[str, Check],
    ) -> None:
        """What ``ready_notes`` find wrong is told by /ready and does not make it fail."""
        self._address = address
        self._port = port
        app = web.Application()
        app.router.add_get("/health", _endpoint(health, {}))
        app.router.add_get("/ready", _endpoint(ready, ready_notes))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)

    async def start(self) -> None:
        """Begin to listen. Raises OSError when the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()


def _endpoint(
    checks: Mapping[str, Check], notes: Mapping[str, Check]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        results: dict[str, Any] = {name: await check() or _OK for name, check in checks.items()}
        healthy = all(result == _OK for result in results.values())
        results |= {name: await note() or _OK for name, note in notes.items()}
        return web.json_response(
            {"status": _OK if healthy else "failing", "checks": results}, status=200 if healthy else 503
        )

    return answer
