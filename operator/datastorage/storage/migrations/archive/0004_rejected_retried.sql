-- The time at which a rejected record was found to have a row after all. Its bytes stay here as evidence.
ALTER TABLE datastorage.rejected_objects ADD COLUMN resolved_at timestamptz;

-- Pages of rejected records, the last one first.
CREATE INDEX ON datastorage.rejected_objects (rejected_at, uid, generation);

-- Whether the archive has a row with the content of a rejected record.
CREATE FUNCTION datastorage.has_row(of_uid uuid, of_generation bigint, created timestamptz, of_spec bytea)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM datastorage.audit_records
            WHERE uid = of_uid AND generation = of_generation AND created_at = created AND spec_hash = of_spec)
        OR EXISTS (SELECT FROM datastorage.action_traces
            WHERE uid = of_uid AND generation = of_generation AND created_at = created AND spec_hash = of_spec)
$$;

-- Marks rejected records that have a row by now, and returns how many. The service may mark nothing else: a
-- record that has no row stays rejected, whatever the caller claims.
CREATE FUNCTION datastorage.resolve_rejected(uids uuid[], generations bigint[], spec_hashes bytea[])
RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH resolved AS (
        UPDATE datastorage.rejected_objects AS r SET resolved_at = now()
        FROM unnest(uids, generations, spec_hashes) AS k (uid, generation, spec_hash)
        WHERE r.uid = k.uid AND r.generation = k.generation AND r.spec_hash = k.spec_hash
            AND r.resolved_at IS NULL
            AND datastorage.has_row(r.uid, r.generation, r.created_at, r.spec_hash)
        RETURNING 1)
    SELECT count(*) FROM resolved
$$;

-- Removes the mark from a rejected record that has lost its row and is rejected again.
CREATE FUNCTION datastorage.reopen_rejected(of_uid uuid, of_generation bigint, of_spec bytea, why text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE datastorage.rejected_objects SET resolved_at = NULL, rejected_at = now(), reason = why
    WHERE uid = of_uid AND generation = of_generation AND spec_hash = of_spec AND resolved_at IS NOT NULL
        AND NOT datastorage.has_row(uid, generation, created_at, spec_hash)
$$;

REVOKE ALL ON FUNCTION datastorage.has_row(uuid, bigint, timestamptz, bytea),
    datastorage.resolve_rejected(uuid[], bigint[], bytea[]),
    datastorage.reopen_rejected(uuid, bigint, bytea, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION datastorage.has_row(uuid, bigint, timestamptz, bytea)
    TO datastorage_service, datastorage_reader;
GRANT EXECUTE ON FUNCTION datastorage.resolve_rejected(uuid[], bigint[], bytea[]),
    datastorage.reopen_rejected(uuid, bigint, bytea, text) TO datastorage_service;
