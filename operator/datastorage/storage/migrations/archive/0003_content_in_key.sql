-- What a row says is part of its key. A uid and a generation alone are no proof of content: after a cluster was
-- restored from a backup, or cloned, the same generation of the same object may come again and say something
-- else. Both are evidence, and both are kept.
--
-- spec_hash is the SHA-256 of the canonical spec, cut out of the content by the server itself. It leaves out what
-- changes without a new generation (labels, annotations, owner references), so that a label that is set between
-- two attempts to store makes no second row. In canonical JSON the spec is the last member of the object, and
-- '},"spec":' stands nowhere before it: "metadata" ends there, and has no member of that name.
--
-- stored_order is the order of storing, for all that happened within the same second.
--
-- diverged marks a row that came when there was another content of its generation already.
CREATE SEQUENCE datastorage.storage_order AS bigint;
GRANT USAGE ON SEQUENCE datastorage.storage_order TO datastorage_service;

ALTER TABLE datastorage.audit_records
    ADD COLUMN spec_hash bytea GENERATED ALWAYS AS (sha256(substring(content
        FROM position('\x7d2c2273706563223a'::bytea IN content) + 9
        FOR greatest(0, octet_length(content) - position('\x7d2c2273706563223a'::bytea IN content) - 9)))) STORED,
    ADD COLUMN stored_order bigint NOT NULL DEFAULT nextval('datastorage.storage_order'),
    ADD COLUMN diverged boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT audit_records_pkey,
    ADD PRIMARY KEY (uid, generation, created_at, spec_hash);
ALTER TABLE datastorage.action_traces
    ADD COLUMN spec_hash bytea GENERATED ALWAYS AS (sha256(substring(content
        FROM position('\x7d2c2273706563223a'::bytea IN content) + 9
        FOR greatest(0, octet_length(content) - position('\x7d2c2273706563223a'::bytea IN content) - 9)))) STORED,
    ADD COLUMN stored_order bigint NOT NULL DEFAULT nextval('datastorage.storage_order'),
    ADD COLUMN diverged boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT action_traces_pkey,
    ADD PRIMARY KEY (uid, generation, created_at, spec_hash);
ALTER TABLE datastorage.rejected_objects
    ADD COLUMN spec_hash bytea GENERATED ALWAYS AS (sha256(substring(content
        FROM position('\x7d2c2273706563223a'::bytea IN content) + 9
        FOR greatest(0, octet_length(content) - position('\x7d2c2273706563223a'::bytea IN content) - 9)))) STORED,
    DROP CONSTRAINT rejected_objects_pkey,
    ADD PRIMARY KEY (uid, generation, spec_hash);

-- A vector is owed for a text. Two contents of one generation owe one each, unless they have the same text.
ALTER TABLE datastorage.vector_outbox
    DROP CONSTRAINT vector_outbox_pkey,
    ADD PRIMARY KEY (uid, generation, text_hash);

DROP FUNCTION datastorage.set_text_hashes(text, uuid[], bigint[], timestamptz[], bytea[]);

-- Links rows to their texts where they have no link yet: the one change that the service may make to a row,
-- and only once. The evidence, content and content_hash, stays as it is.
CREATE FUNCTION datastorage.set_text_hashes(
    of_table text, uids uuid[], generations bigint[], created timestamptz[], spec_hashes bytea[],
    text_hashes bytea[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF of_table = 'audit_records' THEN
        UPDATE datastorage.audit_records AS r SET text_hash = k.text_hash
        FROM unnest(uids, generations, created, spec_hashes, text_hashes)
            AS k (uid, generation, created_at, spec_hash, text_hash)
        WHERE r.uid = k.uid AND r.generation = k.generation AND r.created_at = k.created_at
            AND r.spec_hash = k.spec_hash AND r.text_hash IS NULL;
    ELSIF of_table = 'action_traces' THEN
        UPDATE datastorage.action_traces AS r SET text_hash = k.text_hash
        FROM unnest(uids, generations, created, spec_hashes, text_hashes)
            AS k (uid, generation, created_at, spec_hash, text_hash)
        WHERE r.uid = k.uid AND r.generation = k.generation AND r.created_at = k.created_at
            AND r.spec_hash = k.spec_hash AND r.text_hash IS NULL;
    ELSE
        RAISE EXCEPTION 'no archive table: %', of_table USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;

REVOKE ALL ON FUNCTION datastorage.set_text_hashes(text, uuid[], bigint[], timestamptz[], bytea[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION datastorage.set_text_hashes(text, uuid[], bigint[], timestamptz[], bytea[], bytea[])
    TO datastorage_service;
