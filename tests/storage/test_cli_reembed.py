"""The reembed command as a process of its own: what it prints, and how it is stopped."""

import asyncio
import os
import pty
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from datastorage.embedding.wordllama import MODEL
from datastorage.settings import setting_names
from datastorage.storage.write import Archive
from harness.embeddings import Behaviour, OpenAIService, body, status
from harness.polling import eventually
from harness.postgres import TestDatabase, TestDatabases, connect
from tests.storage.reembedding import audits, expected_texts, store, texts_of

_FILL = """
    INSERT INTO datastorage.audit_records (
        uid, generation, created_at, namespace, name, content, content_hash)
    SELECT gen_random_uuid(), 1, '2026-03-01Z'::timestamptz + n * interval '1 s', 'payments', 'object-' || n,
        convert_to('{"spec":{"action":"restart","message":"disk ' || n || ' is full"}}', 'UTF8'), sha256('x')
    FROM generate_series(1, $1::int) AS n
"""
# The command stops in the middle, however quick it is, while a session holds the advisory lock.
_HELD_UP = """
    CREATE FUNCTION public.held_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT count(*) FROM datastorage.embedding_texts) >= 1000 THEN
            PERFORM pg_advisory_xact_lock_shared(4711);
        END IF;
        RETURN NULL; END $$;
    CREATE TRIGGER held_up BEFORE INSERT ON datastorage.embedding_texts
        FOR EACH STATEMENT EXECUTE FUNCTION public.held_up();
"""


class Process:
    """The running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""
        assert process.stderr is not None
        self._reading = asyncio.create_task(self._read(process.stderr))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while text := await stream.read(4096):
            self.said += text.decode()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def says(self, text: str) -> None:
        await eventually(lambda: text in self.said or self._reading.done())
        assert text in self.said, self.said

    async def ends(self) -> tuple[int | None, str]:
        """Wait for its end; return its exit code and its output."""
        assert self._process.stdout is not None
        answer = (await self._process.stdout.read()).decode()
        await self._reading
        return await self._process.wait(), answer


@pytest.fixture
def environment(cloned: TestDatabase, tmp_path: Path) -> dict[str, str]:
    """Variables of the process, without settings of the machine."""
    ours = set(setting_names())
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {
        "DATASTORAGE_SECRETS_DIR": str(tmp_path / "absent"),
        "DATASTORAGE_DATABASE_URL": cloned.service_url,
        "COLUMNS": "100",
    }


@asynccontextmanager
async def started(environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "datastorage", "reembed", *arguments, env=dict(environment),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        # A script that runs the tests in the background makes its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def result(environment: Mapping[str, str], *arguments: str) -> tuple[int | None, str, str]:
    async with started(environment, *arguments) as process:
        code, answer = await process.ends()
        return code, answer, process.said


async def fill(owner: Any, rows: int) -> None:
    await owner.execute("SELECT datastorage.ensure_partitions('2026-03-01Z')")
    await owner.execute(_FILL, rows)


async def linked(owner: Any) -> int:
    count: int = await owner.fetchval(
        "SELECT count(*) FROM datastorage.audit_records WHERE text_hash IS NOT NULL"
    )
    return count


async def vectors(owner: Any, number: int = 1) -> int:
    count: int = await owner.fetchval(f"SELECT count(*) FROM datastorage.embeddings_{number}")
    return count


async def test_it_counts_then_does_then_finds_nothing(
    environment: Mapping[str, str], archive: Archive, owner: Any
) -> None:
    records = audits(3)
    await store(archive, records)
    await store(archive, audits(2, start=10), with_texts=True)
    code, answer, said = await result(environment, "--dry-run")
    assert (code, said) == (0, "")
    assert answer == f"records without a text: 3\ntexts without a vector of {MODEL}: 2 of 2\n"
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_models") == 0
    assert await linked(owner) == 2
    code, answer, said = await result(environment)
    assert (code, answer) == (
        0,
        f"records that had no text and have one now: 3\nvectors of {MODEL} made: 5\n",
    )
    assert said.splitlines() == ["records to texts: 3 of 3", "texts to vectors: 5 of 5"]
    assert await texts_of(owner, records) == expected_texts(records)
    assert await vectors(owner) == 5
    code, answer, _ = await result(environment)
    assert (code, answer) == (
        0,
        f"records that had no text and have one now: 0\nvectors of {MODEL} made: 0\n",
    )


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_it_continues_where_it_was_stopped(
    environment: Mapping[str, str], cloned: TestDatabase, owner: Any, end: signal.Signals
) -> None:
    rows = 4000
    await fill(owner, rows)
    await owner.execute(_HELD_UP)
    holder = await connect(cloned.owner_url)
    await holder.execute("SELECT pg_advisory_lock(4711)")
    async with started(environment) as process:

        async def begun() -> bool:
            return await linked(owner) > 0

        await eventually(begun)
        before = await linked(owner)
        process.signal(end)
        code, _ = await process.ends()
        assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[end]
        if end is not signal.SIGKILL:
            assert process.said.endswith(
                "stopped; all results so far are kept: run the same command again to continue\n"
            )
            assert "Traceback" not in process.said
    await holder.close()
    assert 0 < before < rows
    code, answer, _ = await result(environment)
    left = rows - await linked(owner)
    assert (code, left) == (0, 0)
    assert f"vectors of {MODEL} made: {rows:,}" in answer
    assert await vectors(owner) == rows


def _read_to_the_end(terminal: int) -> str:
    """Return everything that is written to a terminal until its last writer has closed it."""
    shown = b""
    with suppress(OSError):  # Linux reports the end as an error
        while data := os.read(terminal, 65_536):
            shown += data
    return shown.decode()


async def test_it_shows_a_bar_on_a_terminal(
    environment: Mapping[str, str], archive: Archive, owner: Any
) -> None:
    await store(archive, audits(3))
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "datastorage", "reembed", env={**environment, "TERM": "xterm"},
        stdout=asyncio.subprocess.PIPE, stderr=end,
    )  # fmt: skip
    os.close(end)
    (answer, _), shown = await asyncio.gather(
        process.communicate(), asyncio.to_thread(_read_to_the_end, terminal)
    )
    os.close(terminal)
    assert process.returncode == 0
    assert answer.decode().startswith("records that had no text and have one now: 3\n")
    assert "records to texts" in shown
    assert "3 of 3" in shown
    assert "━" in shown
    assert await vectors(owner) == 3


@pytest_asyncio.fixture
async def service() -> AsyncIterator[OpenAIService]:
    made = OpenAIService(dimensions=4)
    await made.start()
    yield made
    await made.stop()


def with_service(environment: Mapping[str, str], url: str) -> dict[str, str]:
    return {
        **environment,
        "DATASTORAGE_EMBEDDING_PROVIDER": "openai",
        "DATASTORAGE_EMBEDDING_URL": url,
        "DATASTORAGE_EMBEDDING_MODEL": "small",
        "DATASTORAGE_EMBEDDING_DIMENSIONS": "4",
        "DATASTORAGE_EMBEDDING_API_KEY": "hunter2",
    }


@pytest.mark.parametrize("status", [400, 500])
async def test_refused_texts_are_named_and_the_exit_code_says_so(
    environment: Mapping[str, str], archive: Archive, owner: Any, service: OpenAIService, status: int
) -> None:
    records = audits(5)
    await store(archive, records)
    bad = records[2].text
    assert bad is not None

    async def refuse(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        service.behaviours.append(refuse)
        if bad.text in body["input"]:
            return web.Response(status=status, text="hunter2")
        return web.json_response(service.answer(body))

    service.behaviours.append(refuse)
    code, answer, said = await result(with_service(environment, service.url))
    assert code == 1
    assert "vectors of openai/small made: 4\n" in answer
    assert "texts refused: 1:\n" in said
    assert bad.hash.hex() in said
    assert bad.text[:60] in said
    assert "hunter2" not in said
    assert await vectors(owner) == 4
    service.behaviours.clear()
    assert (await result(with_service(environment, service.url)))[0] == 0
    assert await vectors(owner) == 5


async def test_it_says_once_that_it_waits_for_the_embedder(
    environment: Mapping[str, str], archive: Archive, owner: Any, service: OpenAIService
) -> None:
    await store(archive, audits(5))

    async def away(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        service.behaviours.append(away)
        return web.Response(status=503)

    service.behaviours.append(away)
    async with started(with_service(environment, service.url)) as process:
        await process.says("waiting for the embedder: ")
        asked = len(service.requests)
        await eventually(lambda: len(service.requests) > asked + 2)
        service.behaviours.clear()
        code, answer = await process.ends()
    assert code == 0
    assert "vectors of openai/small made: 5\n" in answer
    assert process.said.count("waiting for") == 1
    assert process.said.count("the embedder serves again") == 1
    assert "Traceback" not in process.said
    assert "hunter2" not in process.said
    assert await vectors(owner) == 5


@pytest.mark.parametrize(
    ("settings", "behaviour", "said"),
    [
        ({}, status(401), "refuses the key (401), is DATASTORAGE_EMBEDDING_API_KEY right?"),
        ({}, status(404), "(404), are DATASTORAGE_EMBEDDING_URL and _MODEL right?"),
        ({}, status(302), "set DATASTORAGE_EMBEDDING_URL to the final address"),
        ({}, body("<html>", "text/html"), "is DATASTORAGE_EMBEDDING_URL right?"),
        ({"DATASTORAGE_EMBEDDING_DIMENSIONS": "999"}, None, "is DATASTORAGE_EMBEDDING_DIMENSIONS right?"),
    ],
)
async def test_a_wrong_setting_is_reported_at_once(
    environment: Mapping[str, str],
    service: OpenAIService,
    settings: Mapping[str, str],
    behaviour: Behaviour | None,
    said: str,
    owner: Any,
) -> None:
    service.behaviours = [behaviour] if behaviour is not None else []
    code, answer, error = await result({**with_service(environment, service.url), **settings})
    assert (code, answer) == (2, "")
    assert error.startswith("datastorage: The embedding service at ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_models") == 0


async def test_a_role_that_may_only_read_is_reported(
    environment: Mapping[str, str], owner: Any, cloned: TestDatabase
) -> None:
    name = f"reader_{secrets.token_hex(4)}"
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}' IN ROLE datastorage_reader")
    try:
        address = cloned.service_url.rpartition("@")[2]
        url = f"postgresql://{name}:{name}@{address}"
        code, answer, error = await result({**environment, "DATASTORAGE_DATABASE_URL": url})
    finally:
        await owner.execute(f"DROP ROLE {name}")
    assert (code, answer) == (2, "")
    assert error.startswith("datastorage: PostgreSQL: permission denied for ")
    assert len(error.splitlines()) == 1


async def test_a_role_that_may_only_read_the_records_is_reported(
    environment: Mapping[str, str], databases: TestDatabases, owner: Any
) -> None:
    elsewhere = await databases.clone()
    await owner.execute("REVOKE INSERT ON datastorage.embedding_texts FROM datastorage_service")
    apart = {**environment, "DATASTORAGE_VECTOR_DATABASE_URL": elsewhere.service_url}
    code, answer, error = await result(apart)
    assert (code, answer) == (2, "")
    assert error.startswith("datastorage: PostgreSQL: permission denied for ")
    await databases.drop(elsewhere)


async def test_a_wrong_key_is_reported_although_the_vector_server_is_away(
    environment: Mapping[str, str], databases: TestDatabases, service: OpenAIService
) -> None:
    elsewhere = await databases.clone()
    there = await connect(elsewhere.owner_url)
    await there.execute(
        "ALTER FUNCTION datastorage.ensure_embedding_model(text, text, integer) RENAME TO hidden"
    )
    service.behaviours = [status(401)]
    apart = {
        **with_service(environment, service.url),
        "DATASTORAGE_VECTOR_DATABASE_URL": elsewhere.service_url,
    }
    code, _, error = await result(apart)
    assert code == 2
    assert "refuses the key (401)" in error
    await there.close()
    await databases.drop(elsewhere)


async def test_it_waits_for_a_vector_server_that_is_not_there_yet(
    environment: Mapping[str, str], archive: Archive, databases: TestDatabases, owner: Any
) -> None:
    await store(archive, audits(5))
    elsewhere = await databases.clone()
    no_entry = f"ALTER DATABASE {elsewhere.name} ALLOW_CONNECTIONS"
    await owner.execute(f"{no_entry} false")
    apart = {**environment, "DATASTORAGE_VECTOR_DATABASE_URL": elsewhere.service_url}
    async with started(apart) as process:
        await process.says("waiting for the vector store: ")
        await owner.execute(f"{no_entry} true")
        assert (await process.ends())[0] == 0
    assert "the vector store serves again" in process.said
    there = await connect(elsewhere.owner_url)
    assert await vectors(there) == 5
    await there.close()
    await databases.drop(elsewhere)


async def test_changing_the_model_leaves_the_old_vectors(
    environment: Mapping[str, str], archive: Archive, owner: Any, service: OpenAIService
) -> None:
    await store(archive, audits(5))
    assert (await result(environment))[0] == 0
    assert (await result(with_service(environment, service.url)))[0] == 0
    assert [await vectors(owner, number) for number in (1, 2)] == [5, 5]


async def test_an_old_model_is_dropped_as_the_documentation_says(
    environment: Mapping[str, str], archive: Archive, owner: Any, service: OpenAIService
) -> None:
    page = Path(__file__).parents[2] / "docs" / "guide" / "vectors.md"
    [sql] = re.findall(r"```sql\n(.*?)```", page.read_text(), flags=re.DOTALL)
    await store(archive, audits(5))
    assert (await result(environment))[0] == 0
    assert (await result(with_service(environment, service.url)))[0] == 0
    await owner.execute(sql)
    assert await vectors(owner, 2) == 5
    assert await owner.fetchval("SELECT array_agg(provider) FROM datastorage.embedding_models") == ["openai"]
    assert await owner.fetchval("SELECT array_agg(model_id) FROM datastorage.embedding_parts") == [2]
    # The table is created again if the model is set again.
    assert (await result(environment))[0] == 0
    assert [await vectors(owner, number) for number in (2, 3)] == [5, 5]


async def test_vectors_go_to_their_own_server(
    environment: Mapping[str, str], archive: Archive, owner: Any, databases: TestDatabases
) -> None:
    elsewhere = await databases.clone()
    await store(archive, audits(5))
    apart = {**environment, "DATASTORAGE_VECTOR_DATABASE_URL": elsewhere.service_url}
    assert (await result(apart))[0] == 0
    there = await connect(elsewhere.owner_url)
    assert await vectors(there) == 5
    assert await owner.fetchval("SELECT count(*) FROM datastorage.embedding_models") == 0
    await there.close()
    await databases.drop(elsewhere)


async def test_the_deepest_content_is_read(
    environment: Mapping[str, str], archive: Archive, owner: Any
) -> None:
    deep = "[" * 9_990 + "]" * 9_990
    await owner.execute("SELECT datastorage.ensure_partitions('2026-03-01Z')")
    await store(archive, audits(1))
    await owner.execute(
        "UPDATE datastorage.audit_records SET content = convert_to($1, 'UTF8')",
        f'{{"spec":{{"action":"restart","details":{deep}}}}}',
    )
    code, answer, said = await result(environment)
    if sys.version_info < (3, 12):  # later ones bound their parser by a constant
        assert "records that had no text and have one now: 1\n" in answer, said
    assert code == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DATASTORAGE_EMBEDDING_PROVIDER": "none"}, "DATASTORAGE_EMBEDDING_PROVIDER is none"),
        ({"DATASTORAGE_EMBEDDING_PROVIDER": "openai"}, "DATASTORAGE_EMBEDDING_"),
        ({"DATASTORAGE_DATABASE_URL": ""}, "DATASTORAGE_DATABASE_URL is not set"),
        ({"DATASTORAGE_VECTOR_DATABASE_URL": "mysql://x"}, "DATASTORAGE_VECTOR_DATABASE_URL"),
    ],
)
async def test_wrong_settings_are_one_line(
    environment: Mapping[str, str], settings: Mapping[str, str], said: str
) -> None:
    code, answer, error = await result({**environment, **settings})
    assert (code, answer) == (2, "")
    assert error.startswith("datastorage: ")
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("table", ["schema_version", "vector_schema_version"])
async def test_another_schema_version_is_refused(
    environment: Mapping[str, str], owner: Any, table: str
) -> None:
    await owner.execute(f"UPDATE datastorage.{table} SET version_num = '9999'")
    code, _, error = await result(environment, "--dry-run")
    assert code == 2
    assert "9999, newer than version" in error
