"""/health and /ready report the checks."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from datastorage.api.app import api_app, api_server
from datastorage.api.health import health_routes
from harness.polling import eventually
from harness.ports import free_port
from tests.support.serving import serving


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
    server = api_server(api_app([], routes), addresses="127.0.0.1", port=port)
    async with serving(server), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
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


async def test_all_who_ask_meanwhile_get_the_results_of_one_round_of_checks() -> None:
    port, gate, rounds = free_port(), asyncio.Event(), 0

    async def slow() -> str | None:
        nonlocal rounds
        rounds += 1
        await gate.wait()
        return None

    routes = health_routes(health={}, ready={"postgres": slow}, notes={})
    server = api_server(api_app([], routes), addresses="127.0.0.1", port=port)
    async with serving(server), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def ask() -> int:
            async with session.get("/ready") as response:
                return response.status

        waiting = [asyncio.create_task(ask()) for _ in range(20)]
        await eventually(lambda: rounds == 1)
        async with session.get("/health") as response:
            assert response.status == 200
        gate.set()
        assert await asyncio.gather(*waiting) == [200] * 20
        assert rounds == 1
        assert await ask() == 200
        assert rounds == 2


async def test_an_optional_check_is_shown_and_does_not_fail() -> None:
    port = free_port()
    routes = health_routes(
        health={}, ready={"watch": check(None)}, notes={"embedder": check("does not answer")}
    )
    server = api_server(api_app([], routes), addresses="127.0.0.1", port=port)
    async with (
        serving(server),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get("/ready") as response,
    ):
        assert response.status == 200
        assert (await response.json())["checks"] == {"watch": "ok", "embedder": "does not answer"}
