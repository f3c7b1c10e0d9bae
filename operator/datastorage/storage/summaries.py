"""Counts records by groups: how many, how many failed, how long they took, and whether they helped."""

from collections.abc import Sequence
from typing import Any, Final

from datastorage.storage.connection.database import Database
from datastorage.storage.criteria import Criteria, with_conditions
from datastorage.storage.groups import Group, GroupKey, Groups
from datastorage.storage.readonly import reading

_DAY: Final = "(r.created_at AT TIME ZONE 'UTC')::date"
# The expressions for an AuditRecord and for an ActionTrace.
_KEYS: Final = {
    GroupKey.TYPE: ("r.type", "'ActionTrace'"),
    GroupKey.NAMESPACE: ("r.namespace", "r.namespace"),
    GroupKey.ACTION: ("r.action", "r.action_type"),
    GroupKey.TARGET_KIND: ("r.resource_kind", "r.target_kind"),
    GroupKey.DAY: (_DAY, _DAY),
}
# A window function counts all groups, and their records, before LIMIT leaves the first ones.
_SUMMARY: Final = with_conditions("""
    SELECT {first} AS first_key, {second} AS second_key, count(*) AS records,
        count(*) FILTER (WHERE is_failure) AS failed, count(seconds) AS timed, avg(seconds) AS mean,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds) AS percentiles,
        count(score) AS assessed, avg(score) AS score,
        count(*) OVER () AS all_groups, (sum(count(*)) OVER ())::bigint AS all_records
    FROM (
        SELECT {first_of_records} AS first, {second_of_records} AS second, r.phase = 'Failed' AS is_failure,
            extract(epoch FROM r.end_time - r.start_time)::float8 AS seconds, NULL::float8 AS score
        FROM datastorage.audit_records AS r WHERE {of_audit_records}
        UNION ALL
        SELECT {first_of_traces}, {second_of_traces}, r.execution_status IN ('Failed', 'RolledBack'),
            extract(epoch FROM r.end_time - r.start_time)::float8, r.effectiveness_score
        FROM datastorage.action_traces AS r WHERE {of_action_traces} AND {newest}) AS rows
    GROUP BY first, second ORDER BY {order} LIMIT $1
""")
# Two people with questions that are too large must not keep the connections of all others for long.
_SECONDS: Final = 8.0


class Summaries:
    """Summarizes records. Raises TransientError when PostgreSQL can't serve."""

    def __init__(self, database: Database, *, seconds: float = _SECONDS) -> None:
        """``database`` is that of the records. A summary that takes longer than ``seconds`` is given up."""
        self._database = database
        self._seconds = seconds

    async def grouped(self, criteria: Criteria, keys: Sequence[GroupKey], limit: int) -> Groups:
        """Return the records that meet the criteria by one or two keys, at most ``limit`` groups.

        Groups of later days come first, and then those of more records. Only the newest generation of an
        ActionTrace counts. Raises WorkRefusedError with ``is_limit`` if it takes too long.
        """
        async with reading(self._database, seconds=self._seconds) as connection:
            rows = await connection.fetch(_statement(keys), limit, *criteria.arguments)
        groups = tuple(_group(row, len(keys)) for row in rows)
        return Groups(groups, rows[0]["all_groups"] if rows else 0, rows[0]["all_records"] if rows else 0)


def _statement(keys: Sequence[GroupKey]) -> str:
    first = _KEYS[keys[0]]
    second = _KEYS[keys[1]] if len(keys) > 1 else ("NULL::text", "NULL::text")
    days = [
        f"{name} DESC" for name, key in zip(("first", "second"), keys, strict=False) if key is GroupKey.DAY
    ]
    places = {
        "{first}": _shown("first", keys[0]),
        "{second}": _shown("second", keys[1]) if len(keys) > 1 else "second",
        "{first_of_records}": first[0],
        "{second_of_records}": second[0],
        "{first_of_traces}": first[1],
        "{second_of_traces}": second[1],
        "{order}": ", ".join([*days, "records DESC", "first", "second"]),
    }
    sql = _SUMMARY
    for place, expression in places.items():
        sql = sql.replace(place, expression)
    return sql


def _shown(name: str, key: GroupKey) -> str:
    # A date becomes a text after the grouping: once for each group, not for each row.
    return f"to_char({name}, 'YYYY-MM-DD')" if key is GroupKey.DAY else name


def _group(row: Any, keys: int) -> Group:
    p50, p95 = row["percentiles"] or (None, None)
    return Group(
        (row["first_key"], row["second_key"])[:keys], row["records"], row["failed"], row["timed"],
        row["mean"], p50, p95, row["assessed"], row["score"],
    )  # fmt: skip
