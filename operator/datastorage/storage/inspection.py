"""Checks that the server, its schema and the role's rights meet the program's needs.

``run`` does this when it starts, ``migrate`` when it ends. Each problem is reported in one line that says
what to do. A state in which records would be refused or stored twice is an error. A state that may be
intended (a trigger, a missing index) is a warning.
"""

import logging
from collections.abc import Mapping
from typing import Final

import asyncpg

from datastorage.errors import ConfigurationError, NewerSchemaError, SchemaVersionError
from datastorage.storage.rights import missing_rights, summary_of
from datastorage.storage.schema import ARCHIVE, SCHEMA, VECTORS, Chain, check_schema_version

_log = logging.getLogger(__name__)

_MIN_POSTGRES: Final = 160_000
# Older versions can't continue an index scan after a filter has left too few rows.
_MIN_PGVECTOR: Final = (0, 8)
# SQL_ASCII keeps the bytes as they come, and the program sends UTF-8. Other encodings lack most characters.
_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})
_SERVER: Final = """
    SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
        current_setting('server_encoding') AS encoding, current_database()::text AS database,
        (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector') AS pgvector
"""
# The primary keys. By them, a record that is stored again is recognized.
KEYS: Final[dict[Chain, Mapping[str, tuple[str, ...]]]] = {
    ARCHIVE: {
        "audit_records": ("uid", "generation", "created_at", "spec_hash"),
        "action_traces": ("uid", "generation", "created_at", "spec_hash"),
        "rejected_objects": ("uid", "generation", "spec_hash"),
        "embedding_texts": ("text_hash",),
        "vector_outbox": ("uid", "generation", "text_hash"),
        "claims": ("namespace", "identifier_hash"),
    },
    VECTORS: {"embedding_models": ("id",), "embedding_parts": ("model_id", "part")},
}
_PARTITIONED: Final = ("audit_records", "action_traces")
INDEXES: Final[dict[Chain, Mapping[str, tuple[tuple[str, ...], ...]]]] = {
    ARCHIVE: {
        "audit_records": (
            ("created_at", "uid"), ("correlation_id", "happened_at"), ("namespace", "created_at"),
            ("type", "created_at"), ("resource_kind", "resource_namespace", "resource_name", "created_at"),
            ("alert_fingerprint", "created_at"), ("search",), ("text_hash", "created_at"),
            ("recorded_by", "created_at"), ("action", "created_at"), ("actor_name", "created_at"),
            ("cluster", "created_at"), ("environment", "created_at"), ("created_at",), ("stored_order",),
        ),
        "action_traces": (
            ("created_at", "uid"), ("correlation_id", "happened_at"), ("namespace", "created_at"),
            ("action_type", "created_at"), ("target_kind", "target_namespace", "target_name", "created_at"),
            ("alert_fingerprint", "created_at"), ("search",), ("text_hash", "created_at"),
            ("recorded_by", "created_at"), ("created_at",), ("stored_order",),
        ),
        "vector_outbox": (("due_at",), ("state", "owed_since")),
        "rejected_objects": (("rejected_at", "uid", "generation"),),
    },
    VECTORS: {},
}  # fmt: skip
_INDEXES: Final = """
    SELECT c.relname::text AS "table", i.indisprimary AS is_key, c.relkind = 'p' AS is_partitioned, (
        SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE k.place <= i.indnkeyatts) AS columns
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisvalid
    WHERE n.nspname = 'datastorage' AND c.relname = ANY ($1::text[]) AND c.relkind IN ('r', 'p')
"""
# The constraints that the migrations create; any other one was added by somebody else.
_KNOWN_CONSTRAINTS: Final = (
    "audit_records_content_hash_check", "action_traces_content_hash_check",
    "audit_records_via_check", "action_traces_via_check", "rejected_objects_via_check",
    "claims_identifier_hash_check", "claims_request_hash_check", "claims_spec_hash_check",
    "rejected_objects_content_hash_check", "vector_outbox_state_check", "embedding_models_dimensions_check",
    "embedding_models_provider_name_dimensions_key", "embedding_parts_model_id_fkey",
    "embedding_parts_state_check",
)  # fmt: skip
# The columns for which the program always gives a value. NOT NULL on any other column may refuse rows.
_ALWAYS_GIVEN: Final = (
    "uid", "generation", "created_at", "namespace", "name", "content", "content_hash", "final", "table_name",
    "via", "identifier_hash", "request_hash", "spec_hash",
    "reason", "text_hash", "text", "id", "provider", "dimensions", "model_id", "part",
)  # fmt: skip
# Finds everything that can refuse or change a row, on our tables and on each single partition.
_ADDED: Final = """
    WITH ours AS (
        SELECT c.oid, c.relrowsecurity FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'datastorage' AND c.relname = ANY ($1::text[])),
    tables AS (
        SELECT oid, relrowsecurity FROM ours
        UNION ALL
        SELECT c.oid, c.relrowsecurity FROM pg_catalog.pg_inherits AS i JOIN ours ON ours.oid = i.inhparent
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid)
    SELECT 'trigger' AS what, t.tgname::text AS name, tables.oid::regclass::text AS "table"
    FROM tables JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = tables.oid
    WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgparentid = 0
    UNION ALL
    SELECT 'constraint', k.conname, tables.oid::regclass::text
    FROM tables JOIN pg_catalog.pg_constraint AS k ON k.conrelid = tables.oid
    WHERE k.contype IN ('c', 'f', 'u', 'x') AND k.conislocal AND k.conparentid = 0
        AND k.conname <> ALL ($2::text[])
    UNION ALL
    SELECT 'unique index', i.indexrelid::regclass::text, tables.oid::regclass::text
    FROM tables JOIN pg_catalog.pg_index AS i ON i.indrelid = tables.oid
    WHERE i.indisunique AND NOT i.indisprimary
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conindid = i.indexrelid)
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = i.indexrelid)
    UNION ALL
    SELECT 'NOT NULL of the column', a.attname, tables.oid::regclass::text
    FROM ours AS tables JOIN pg_catalog.pg_attribute AS a ON a.attrelid = tables.oid
    WHERE a.attnum > 0 AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT a.attisdropped
        AND a.attname <> ALL ($3::text[])
    UNION ALL
    SELECT 'rule', r.rulename, tables.oid::regclass::text
    FROM tables JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = tables.oid
    UNION ALL
    SELECT 'row-level security', 'policies', oid::regclass::text FROM tables WHERE relrowsecurity
    ORDER BY 1, 2, 3
"""
_OWNERS: Final = """
    SELECT DISTINCT pg_catalog.pg_get_userbyid(owner)::text AS owner FROM (
        SELECT relowner FROM pg_catalog.pg_class WHERE relnamespace = 'datastorage'::regnamespace
        UNION SELECT proowner FROM pg_catalog.pg_proc WHERE pronamespace = 'datastorage'::regnamespace
        ) AS owners (owner)
    ORDER BY 1
"""
# The role, and the group whose rights it needs: the group of readers for a role that may only read.
_ROLE: Final = """
    SELECT current_user::text, CASE WHEN EXISTS (
        SELECT FROM pg_catalog.pg_roles AS reader
        WHERE reader.rolname = 'datastorage_reader' AND pg_has_role(current_user, reader.oid, 'MEMBER')
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS service
                WHERE service.rolname = 'datastorage_service'
                    AND pg_has_role(current_user, service.oid, 'MEMBER')))
        THEN 'datastorage_reader' ELSE 'datastorage_service' END
"""
# A message with more names would not be read.
_NAMED: Final = 5
_RESTORE: Final = "restore the schema datastorage from a dump"


async def check_state(connection: asyncpg.Connection, chain: Chain) -> None:
    """Raise ConfigurationError if the server, its schema or this role's rights are not as needed."""
    await check_server(connection, chain)
    [(role, group)] = await connection.fetch(_ROLE)
    gaps = await missing_rights(connection, chain, role, group=group)
    needed_for_version = {SCHEMA, f"{SCHEMA}.{chain.version_table}"}
    if any(gap.owner is not None and gap.object in needed_for_version for gap in gaps):
        await check_rights(connection, chain)
    await check_schema_version(connection, chain)
    await check_rights(connection, chain)
    await check_schema(connection, chain)


async def check_server(connection: asyncpg.Connection, chain: Chain) -> None:
    """Raise ConfigurationError if the server or the database lacks something that the program needs."""
    [server] = await connection.fetch(_SERVER)
    if server["number"] < _MIN_POSTGRES:
        raise ConfigurationError(
            f"{chain.server} {server['version']} is too old, 16 is needed: upgrade it, or name another "
            f"server in {chain.setting}"
        )
    if chain == ARCHIVE and server["encoding"] not in _ENCODINGS:
        raise ConfigurationError(
            f"the database {server['database']} has the encoding {server['encoding']}, which lacks most "
            f"characters: create a database with ENCODING 'UTF8' TEMPLATE template0, and name it in "
            f"{chain.setting}"
        )
    if chain == VECTORS:
        check_pgvector(server["pgvector"])


def check_pgvector(version: str | None) -> None:
    """Raise ConfigurationError if pgvector is missing or too old."""
    instead = (
        "name a server that has it in DATASTORAGE_VECTOR_DATABASE_URL, "
        "or set DATASTORAGE_EMBEDDING_PROVIDER=none to do without vectors"
    )
    if version is None:
        raise ConfigurationError(f"this PostgreSQL has no pgvector: install it there, {instead}")
    if tuple(int(number) for number in version.split(".")[:2]) < _MIN_PGVECTOR:
        raise ConfigurationError(
            f"pgvector {version} is too old, 0.8 is needed: ALTER EXTENSION vector UPDATE, or {instead}"
        )


async def check_schema(connection: asyncpg.Connection, chain: Chain) -> None:
    """Raise ConfigurationError if a table is broken; warn about changes that may be intended."""
    tables = await connection.fetch(_INDEXES, list(KEYS[chain]))
    found = {(row["table"], tuple(row["columns"] or ()), row["is_key"]) for row in tables}
    for table, key in KEYS[chain].items():
        if not any(name == table and is_key and set(columns) == set(key) for name, columns, is_key in found):
            raise ConfigurationError(
                f"the table datastorage.{table} is missing, or has no primary key ({', '.join(key)}), so "
                f"that records would be stored twice: {_RESTORE}"
            )
    plain = [row["table"] for row in tables if row["table"] in _PARTITIONED and not row["is_partitioned"]]
    if plain:
        raise ConfigurationError(f"the table datastorage.{plain[0]} is not partitioned: {_RESTORE}")
    missing = [
        f"{table} ({', '.join(columns)})"
        for table, lists in INDEXES[chain].items()
        for columns in lists
        if (table, columns, False) not in found
    ]
    if missing:
        _log.warning("Indexes are missing or invalid, which makes queries slow: %s", _some(missing))
    owners = [row["owner"] for row in await connection.fetch(_OWNERS)]
    if len(owners) > 1:
        _log.warning(
            "The objects of the schema datastorage belong to several roles, so that its functions may lack "
            "rights on its tables: %s. Give all objects to one role by ALTER … OWNER TO",
            _some(owners),
        )
    added = await connection.fetch(_ADDED, list(KEYS[chain]), list(_KNOWN_CONSTRAINTS), list(_ALWAYS_GIVEN))
    if added:
        names = [f"{row['what']} {row['name']} on {row['table']}" for row in added]
        _log.warning("Objects that are not from a migration may refuse or change rows: %s", _some(names))


async def check_rights(connection: asyncpg.Connection, chain: Chain) -> None:
    """Raise ConfigurationError, which names the rights or objects that are missing."""
    problem = await missing_in(connection, chain)
    if problem is not None:
        raise ConfigurationError(problem)


async def missing_in(connection: asyncpg.Connection, chain: Chain) -> str | None:
    """Return one line about the rights or objects that are missing, with the remedy; None if none are."""
    [(role, group)] = await connection.fetch(_ROLE)
    gaps = await missing_rights(connection, chain, role, group=group)
    absent = list(dict.fromkeys(gap.object for gap in gaps if gap.owner is None))
    if absent:
        return f"the {chain.name} lacks {_some(absent)}: {_RESTORE}"
    lacking = [gap for gap in gaps if not gap.is_open]
    if not lacking:
        return None
    group_gaps = [
        gap for gap in await missing_rights(connection, chain, group, group=group) if not gap.is_open
    ]
    remedy = (
        "run 'datastorage migrate' as the owner of the schema"
        if group_gaps
        else f'run GRANT {group} TO "{role}"'
    )
    return f"{summary_of(role, lacking)}: {remedy}"


async def what_is_gone(connection: asyncpg.Connection, chain: Chain) -> str | None:
    """Return one line about a schema that is not the one of this program, with the remedy; None if it is.

    It is for a process that runs, and so has met this schema as it should be.
    """
    try:
        await check_schema_version(connection, chain)
    except NewerSchemaError as error:
        return str(error)
    except SchemaVersionError as error:
        return f"{error}; if there were records in it, restore them before that"
    return await missing_in(connection, chain)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
