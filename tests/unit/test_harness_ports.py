"""Servers of the harness get free ports, and start even if a port was taken after it was chosen."""

import asyncio
import socket
import subprocess
import sys
from typing import Final

from harness import REPOSITORY
from harness.ports import free_port
from harness.postgres import PostgresServer, connect

MANY: Final = 200
_PRINT_PORTS: Final = f"""
from harness import REPOSITORY
from harness.ports import free_port
print(*(free_port() for _ in range({MANY})))
input()
"""


def test_a_port_is_not_one_of_outgoing_connections() -> None:
    assert {free_port() < 32_768 for _ in range(20)} == {True}


def test_a_port_is_given_once() -> None:
    assert len({free_port() for _ in range(MANY)}) == MANY


def test_processes_that_run_at_the_same_time_get_different_ports() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PRINT_PORTS], cwd=REPOSITORY,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    ports: list[str] = []
    for process in processes:
        assert process.stdout is not None
        ports += process.stdout.readline().split()
    for process in processes:
        process.communicate("\n")
    assert len(ports) == len(set(ports)) == 3 * MANY


def test_a_port_that_is_taken_before_the_first_start_is_replaced() -> None:
    server = PostgresServer()
    first = server.port

    async def ask() -> int:
        connection = await connect(server.owner_url)
        try:
            answer: int = await connection.fetchval("SELECT 1")
            return answer
        finally:
            await connection.close()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        with server:
            assert server.port != first
            assert asyncio.run(ask()) == 1
