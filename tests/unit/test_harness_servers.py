"""The servers of the tests leave nothing behind: neither a process nor a file."""

import socket

import pytest

from harness.postgres import PostgresServer
from harness.redis import RedisServer

Server = PostgresServer | RedisServer


@pytest.fixture(params=[PostgresServer, RedisServer])
def server(request: pytest.FixtureRequest) -> Server:
    made: Server = request.param()
    return made


def test_a_server_runs_in_its_block_and_is_gone_after_it(server: Server) -> None:
    with server:
        assert _listens(server)
    assert not _listens(server)
    assert not server._directory.exists()


def test_a_server_that_does_not_start_leaves_no_files(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no memory")

    monkeypatch.setattr(server, "start", fail)
    with pytest.raises(OSError, match="no memory"), server:
        pytest.fail("the block is entered")
    assert not server._directory.exists()


def _listens(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0
