"""Lists the rights that the roles need. ``migrate`` grants them, and errors name those that are missing.

For each table, sequence or function that a migration creates, add an entry here. Grants get lost when a dump
is restored before its roles exist, and when somebody recreates a table by hand.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import asyncpg

from datastorage.errors import ConfigurationError
from datastorage.storage.connection.sessions import transaction
from datastorage.storage.schema import ARCHIVE, SCHEMA, VECTORS, Chain

SERVICE: Final = "datastorage_service"
READER: Final = "datastorage_reader"
# A message with more names would not be read.
_NAMED: Final = 3

Kind = Literal["SCHEMA", "EXTENSION", "TABLE", "SEQUENCE", "FUNCTION"]


@dataclass(frozen=True, slots=True)
class Needed:
    """A database object, and the rights on it that the group roles need. No two functions share a name."""

    kind: Kind
    name: str
    service: tuple[str, ...] = ()
    reader: tuple[str, ...] = ()


_USE: Final = ("USAGE",)
_READ: Final = ("SELECT",)
_ADD: Final = ("SELECT", "INSERT")
_RUN: Final = ("EXECUTE",)
_SCHEMA_ITSELF: Final = Needed("SCHEMA", SCHEMA, _USE, _USE)
NEEDED: Final[dict[Chain, tuple[Needed, ...]]] = {
    ARCHIVE: (
        _SCHEMA_ITSELF,
        Needed("TABLE", "schema_version", _READ, _READ),
        Needed("TABLE", "audit_records", _ADD, _READ),
        Needed("TABLE", "action_traces", _ADD, _READ),
        Needed("TABLE", "rejected_objects", _ADD, _READ),
        Needed("TABLE", "embedding_texts", _ADD, _READ),
        Needed("TABLE", "claims", _ADD, _READ),
        Needed("TABLE", "vector_outbox", (*_ADD, "UPDATE", "DELETE"), _READ),
        Needed("SEQUENCE", "storage_order", ("SELECT", *_USE), _READ),
        Needed("FUNCTION", "ensure_partitions", _RUN),
        Needed("FUNCTION", "set_text_hashes", _RUN),
        Needed("FUNCTION", "has_row", _RUN, _RUN),
        Needed("FUNCTION", "resolve_rejected", _RUN),
        Needed("FUNCTION", "reopen_rejected", _RUN),
    ),
    VECTORS: (
        _SCHEMA_ITSELF,
        # The rights are those on the schema that pgvector is in.
        Needed("EXTENSION", "vector", _USE, _USE),
        Needed("TABLE", "vector_schema_version", _READ, _READ),
        Needed("TABLE", "embedding_models", _READ, _READ),
        Needed("TABLE", "embedding_parts", _READ, _READ),
        Needed("FUNCTION", "ensure_embedding_model", _RUN),
        Needed("FUNCTION", "seal_embeddings", _RUN),
        Needed("FUNCTION", "index_embeddings", _RUN),
        Needed("FUNCTION", "make_embedding_part"),
        Needed("FUNCTION", "drop_embedding_parts"),
        Needed("FUNCTION", "embedding_part_tables"),
        Needed("FUNCTION", "build_embedding_index"),
        Needed("FUNCTION", "build_embedding_lookup"),
    ),
}
# The rights on the table of each embedding model.
_ON_MODELS: Final = Needed("TABLE", "", _ADD, _READ)

# The query reads the catalogue, which every role may do: a role without the right to use the schema can't
# look its objects up by name. $5 holds the rights on each model's table.
_GAPS: Final = """
    WITH home AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'datastorage'),
    needed AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
            WITH ORDINALITY AS n (kind, name, privilege, place)
        UNION ALL
        SELECT 'TABLE', c.relname, privilege, 1000
        FROM unnest($5::text[]) AS on_models (privilege),
            pg_catalog.pg_class AS c JOIN home ON c.relnamespace = home.oid
        WHERE c.relkind = 'p' AND c.relname ~ '^embeddings_[0-9]+$')
    SELECT kind, coalesce(found.object, 'datastorage.' || quote_ident(name)) AS object, privilege,
        pg_catalog.pg_get_userbyid(found.owner)::text AS owner, coalesce(found.is_open, false) AS is_open
    FROM needed LEFT JOIN LATERAL (
        SELECT c.relowner AS owner, 'datastorage.' || quote_ident(c.relname) AS object, false AS is_open,
            CASE kind WHEN 'SEQUENCE' THEN has_sequence_privilege($4::name, c.oid, privilege)
                ELSE has_table_privilege($4::name, c.oid, privilege) END AS is_allowed
        FROM pg_catalog.pg_class AS c JOIN home ON c.relnamespace = home.oid
        WHERE c.relname = name
            AND (kind = 'TABLE' AND c.relkind IN ('r', 'p') OR kind = 'SEQUENCE' AND c.relkind = 'S')
        UNION ALL
        SELECT p.proowner, 'datastorage.' || quote_ident(p.proname),
            has_function_privilege('public', p.oid, 'EXECUTE'),
            CASE privilege WHEN '' THEN true ELSE has_function_privilege($4::name, p.oid, privilege) END
        FROM pg_catalog.pg_proc AS p JOIN home ON p.pronamespace = home.oid
        WHERE kind = 'FUNCTION' AND p.proname = name
        UNION ALL
        SELECT n.nspowner, quote_ident(n.nspname), false, has_schema_privilege($4::name, n.oid, privilege)
        FROM pg_catalog.pg_namespace AS n
        WHERE kind = 'SCHEMA' AND n.nspname = name OR kind = 'EXTENSION' AND n.oid = (
            SELECT extnamespace FROM pg_catalog.pg_extension WHERE extname = name)) AS found ON true
    WHERE found.is_allowed IS NOT TRUE OR found.is_open
    ORDER BY needed.place, object, privilege
"""
_ROLE_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)"


@dataclass(frozen=True, slots=True)
class Gap:
    """A right that a role lacks, or an object that is missing."""

    kind: Kind
    object: str
    """The name, quoted for a statement; for an extension, that of its schema."""
    right: str
    owner: str | None
    """None if the object itself is missing."""
    is_open: bool
    """Whether every role may call the function."""

    @property
    def action(self) -> str:
        """The words that follow "the role may not"."""
        match self.right:
            case "INSERT":
                return f"INSERT into {self.object}"
            case "SELECT" | "DELETE":
                return f"{self.right} from {self.object}"
            case "USAGE":
                return f"use the {'sequence' if self.kind == 'SEQUENCE' else 'schema'} {self.object}"
            case right:
                return f"{right} {self.object}"


async def missing_rights(
    connection: asyncpg.Connection, chain: Chain, role: str, *, group: str = SERVICE
) -> list[Gap]:
    """Return the rights of a group that a role lacks. Any role may call this."""
    wanted = [
        (item.kind, item.name, right)
        for item in NEEDED[chain]
        for right in (item.service if group == SERVICE else item.reader)
        or (("",) if item.kind == "FUNCTION" else ())
    ]
    models = (_ON_MODELS.service if group == SERVICE else _ON_MODELS.reader) if chain == VECTORS else ()
    if not await connection.fetchval(_ROLE_EXISTS, role):
        return [Gap(kind, name, right, "", is_open=False) for kind, name, right in wanted]
    rows = await connection.fetch(_GAPS, *map(list, zip(*wanted, strict=True)), role, list(models))
    return [Gap(r["kind"], r["object"], r["privilege"], r["owner"], r["is_open"]) for r in rows]


def summary_of(role: str, gaps: Iterable[Gap]) -> str:
    """Return one sentence that names what a role may not do."""
    actions = [gap.action for gap in gaps]
    more = f", and lacks {len(actions) - _NAMED} more rights" if len(actions) > _NAMED else ""
    return f'role "{role}" may not {", ".join(actions[:_NAMED])}{more}'


async def grant_rights(connection: asyncpg.Connection, chain: Chain) -> None:
    """Create the group roles if they are missing, and grant them their rights. A repeat changes nothing.

    Raises ConfigurationError, which names the role and the right, if this role may not grant it.
    """
    for role in (SERVICE, READER):
        await _create_role(connection, role)
    for role in (SERVICE, READER):
        for gap in await missing_rights(connection, chain, role, group=role):
            if gap.owner is not None:
                await _grant(connection, gap, role)
        left = [
            gap for gap in await missing_rights(connection, chain, role, group=role) if gap.owner is not None
        ]
        if left:
            raise ConfigurationError(
                f"{summary_of(role, left)}, and this role may not grant it: {left[0].object} belongs to "
                f'"{left[0].owner}", which {chain.owner_setting} must name'
            )


async def _create_role(connection: asyncpg.Connection, role: str) -> None:
    # Roles belong to the whole server: another database's migration, or a superuser, may have created them.
    if await connection.fetchval(_ROLE_EXISTS, role):
        return
    try:
        async with transaction(connection):
            await connection.execute(f"CREATE ROLE {role} NOLOGIN")
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        return  # another database's migration has just created it
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the role {role} does not exist, and this role may not create it: let a superuser run "
            f"CREATE ROLE {role} NOLOGIN"
        ) from error


async def _grant(connection: asyncpg.Connection, gap: Gap, role: str) -> None:
    kind = "SCHEMA" if gap.kind == "EXTENSION" else gap.kind
    try:
        async with transaction(connection):
            if gap.is_open:
                # The function runs with its owner's rights, so not every role should be able to call it.
                await connection.execute(f"REVOKE ALL ON {kind} {gap.object} FROM PUBLIC")
            if gap.right:
                await connection.execute(f"GRANT {gap.right} ON {kind} {gap.object} TO {role}")
    except asyncpg.InsufficientPrivilegeError:
        return  # grant_rights names the gaps that are left
