"""The identifiers that clients choose for their records: each belongs to the first record that comes with it.

A claim is made in the transaction of its row. So an identifier is never taken by a record that is not stored.
"""

from collections.abc import Sequence
from typing import Final

from datastorage.records.record import Claimed, Record, RecordKey
from datastorage.storage.connection.sessions import Session

# The order of the primary key is the same for all transactions, so that two of them never wait for each
# other. Where another transaction has the claim and has not committed yet, this statement waits for its end.
_TAKE: Final = """
    INSERT INTO datastorage.claims (namespace, identifier_hash, request_hash, uid, created_at, spec_hash)
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::bytea[])
        AS c (namespace, identifier_hash, request_hash, uid, created_at, spec_hash)
    ORDER BY namespace, identifier_hash
    ON CONFLICT DO NOTHING
    RETURNING uid
"""
_HOLDERS: Final = """
    SELECT n.place, c.request_hash, c.uid, c.created_at, c.spec_hash
    FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS n (namespace, identifier_hash, place)
    JOIN datastorage.claims AS c USING (namespace, identifier_hash)
"""


async def take(connection: Session, records: Sequence[Record]) -> dict[RecordKey, Claimed]:
    """Take the claims of the records; return the holders of those that belong to another record already.

    It is the first statement of a transaction that has claims: a later one sees the rows that it waited for.
    """
    claims = [(record, record.claim) for record in records if record.claim is not None]
    if not claims:
        return {}
    namespaces = [record.namespace for record, _ in claims]
    identifiers = [claim.identifier_hash for _, claim in claims]
    taken = await connection.fetch(
        _TAKE,
        namespaces,
        identifiers,
        [claim.request_hash for _, claim in claims],
        [record.key.uid for record, _ in claims],
        [record.key.created_at for record, _ in claims],
        [record.key.spec_hash for record, _ in claims],
    )
    if len(taken) == len(claims):
        return {}
    # A new statement sees what others have committed meanwhile, and a repeated identifier of this batch.
    held: dict[RecordKey, Claimed] = {}
    for row in await connection.fetch(_HOLDERS, namespaces, identifiers):
        record, claim = claims[row["place"] - 1]
        holder = RecordKey(str(row["uid"]), 1, row["created_at"], row["spec_hash"])
        # A claim of this very record is its own: this attempt or an earlier one has made it.
        if holder != record.key:
            held[record.key] = Claimed(holder, row["request_hash"] == claim.request_hash)
    return held
