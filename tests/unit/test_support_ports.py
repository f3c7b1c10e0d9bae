"""The tests' own servers start although their port was taken after it had been chosen."""

import asyncio
import socket

from harness.ports import free_port
from harness.postgres import PostgresServer, connect


def test_a_port_is_not_one_of_outgoing_connections() -> None:
    assert {free_port() < 32_768 for _ in range(20)} == {True}


def test_a_port_that_is_taken_before_the_first_start_is_replaced() -> None:
    server = PostgresServer()
    first = server.port
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", first))
            taken.listen()
            server.start()
        assert server.port != first

        async def ask() -> int:
            connection = await connect(server.owner_url)
            try:
                answer: int = await connection.fetchval("SELECT 1")
                return answer
            finally:
                await connection.close()

        assert asyncio.run(ask()) == 1
    finally:
        server.remove()
