"""/health and /ready report the checks."""

from collections.abc import Awaitable, Callable

import aiohttp

from datastorage.api.app import api_server
from datastorage.api.health import health_routes
from harness.ports import free_port


def check(problem: str | None) -> Callable[[], Awaitable[str | None]]:
    async def answer() -> str | None:
        return problem

    return answer


async def test_each_endpoint_shows_its_own_checks() -> None:
    port = free_port()
    routes = health_routes(
        health={"watch": check(None)},
        ready={"watch": check(None), "postgres": check("PostgreSQL: connection refused")},
        notes={"redis": check(None)},
    )
    server = api_server(routes, addresses="127.0.0.1", port=port)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/health") as response:
                assert response.status == 200
                assert await response.json() == {"status": "ok", "checks": {"watch": "ok"}}
            async with session.get("/ready") as response:
                assert response.status == 503
                assert await response.json() == {
                    "status": "failing",
                    "checks": {
                        "watch": "ok",
                        "postgres": "PostgreSQL: connection refused",
                        "redis": "ok",
                    },
                }
    finally:
        await server.stop()


async def test_an_optional_check_is_shown_and_does_not_fail() -> None:
    port = free_port()
    routes = health_routes(
        health={}, ready={"watch": check(None)}, notes={"embedder": check("does not answer")}
    )
    server = api_server(routes, addresses="127.0.0.1", port=port)
    await server.start()
    try:
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.get("/ready") as response,
        ):
            assert response.status == 200
            assert (await response.json())["checks"] == {"watch": "ok", "embedder": "does not answer"}
    finally:
        await server.stop()
