-- The group role of people and programs that read the archive.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'datastorage_reader') THEN
        CREATE ROLE datastorage_reader NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

-- The meaning of a record, as one text without identifiers: records of equal events share it, and its vector.
-- The hash of the text is the record's link to both. It is NULL in rows that were stored while no vectors
-- were kept; datastorage.set_text_hashes sets it later.
ALTER TABLE datastorage.audit_records ADD COLUMN text_hash bytea;
ALTER TABLE datastorage.action_traces ADD COLUMN text_hash bytea;

-- From a text to its newest records, and to the rows without one.
CREATE INDEX ON datastorage.audit_records (text_hash, created_at);
CREATE INDEX ON datastorage.action_traces (text_hash, created_at);

-- Each distinct text once. A new model makes its vectors from these.
CREATE TABLE datastorage.embedding_texts (
    text_hash bytea NOT NULL PRIMARY KEY,
    text      text  NOT NULL
);

-- Records whose vectors are still missing ("pending"), can't be made ("failed"), or were given up by a person
-- ("dropped"). A row leaves the table when its vector is written.
CREATE TABLE datastorage.vector_outbox (
    uid        uuid        NOT NULL,
    generation bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    table_name text        NOT NULL,
    namespace  text        NOT NULL,
    name       text        NOT NULL,
    text_hash  bytea       NOT NULL,
    state      text        NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'failed', 'dropped')),
    owed_since timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz NOT NULL DEFAULT now(),
    attempts   integer     NOT NULL DEFAULT 0,
    last_error text,
    PRIMARY KEY (uid, generation)
);
CREATE INDEX ON datastorage.vector_outbox (due_at) WHERE state = 'pending';
CREATE INDEX ON datastorage.vector_outbox (state, owed_since);

-- Sets the text of rows that have none yet: the one change that the service may make to a row,
-- and only once. The evidence, content and content_hash, stays as it is.
CREATE FUNCTION datastorage.set_text_hashes(
    of_table text, uids uuid[], generations bigint[], created timestamptz[], hashes bytea[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF of_table = 'audit_records' THEN
        UPDATE datastorage.audit_records AS r SET text_hash = k.text_hash
        FROM unnest(uids, generations, created, hashes) AS k (uid, generation, created_at, text_hash)
        WHERE r.uid = k.uid AND r.generation = k.generation AND r.created_at = k.created_at
            AND r.text_hash IS NULL;
    ELSIF of_table = 'action_traces' THEN
        UPDATE datastorage.action_traces AS r SET text_hash = k.text_hash
        FROM unnest(uids, generations, created, hashes) AS k (uid, generation, created_at, text_hash)
        WHERE r.uid = k.uid AND r.generation = k.generation AND r.created_at = k.created_at
            AND r.text_hash IS NULL;
    ELSE
        RAISE EXCEPTION 'no archive table: %', of_table USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;

REVOKE ALL ON FUNCTION datastorage.set_text_hashes(text, uuid[], bigint[], timestamptz[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION datastorage.set_text_hashes(text, uuid[], bigint[], timestamptz[], bytea[])
    TO datastorage_service;
GRANT SELECT, INSERT ON datastorage.embedding_texts TO datastorage_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON datastorage.vector_outbox TO datastorage_service;
GRANT USAGE ON SCHEMA datastorage TO datastorage_reader;
GRANT SELECT ON datastorage.audit_records, datastorage.action_traces, datastorage.rejected_objects,
    datastorage.embedding_texts, datastorage.vector_outbox, datastorage.schema_version TO datastorage_reader;
