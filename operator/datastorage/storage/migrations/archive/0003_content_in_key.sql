-- The content of a row is part of its key. A uid and a generation alone are no proof of content: after a cluster was
-- restored from a backup, or cloned, the same generation of the same object may come again and say something
-- else. Both are evidence, and both are kept.
--
-- spec_hash is the SHA-256 of the canonical spec, cut out of the content by the server itself. It leaves out the
-- fields that change without a new generation (labels, annotations, owner references), so that a label that is set between
-- two attempts to store makes no second row. In canonical JSON the spec is the last member of the object, and
-- '},"spec":' stands nowhere before it: "metadata" ends there, and has no member of that name.
--
-- diverged marks a row that was stored when its generation already had a row with another content.
--
-- happened_at is the position of a row in a timeline (see query/timeline.py). It never changes, so that a page can
-- begin where another ended. Creation times have whole seconds; within one, resource_version is the order in which
-- the cluster wrote the objects (0: not known), and stored_order the order of storing.
CREATE SEQUENCE datastorage.storage_order AS bigint;
GRANT USAGE ON SEQUENCE datastorage.storage_order TO datastorage_service;

-- From now on a remediation is read in the order of its timeline.
DROP INDEX datastorage.audit_records_correlation_id_created_at_idx;
DROP INDEX datastorage.action_traces_correlation_id_created_at_idx;

-- New words wait in a pending list before they enter this index. The insert that finds the list full has to empty
-- it, even if the insert itself is small. With the default limit of 4 MB, that may take longer than a role's
-- statement_timeout.
DROP INDEX datastorage.audit_records_search_idx;
DROP INDEX datastorage.action_traces_search_idx;

-- Go writes the first moment of the year 1 for a time that was never set, in a local zone up to a minute off. It
-- counts as no time.
CREATE FUNCTION datastorage.given_time(at timestamptz) RETURNS timestamptz LANGUAGE sql AS $$
    SELECT CASE WHEN at >= '0001-01-01T00:01:00Z' THEN at END
$$;
-- NULL where the content can't be read here, or has a time without a date: the column is only an index.
CREATE FUNCTION datastorage.assessed_at(content bytea) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    IF position('"assessedAt":'::bytea IN content) = 0 THEN
        RETURN NULL;
    END IF;
    said := convert_from(content, 'UTF8')::json #>> '{spec,effectiveness,assessedAt}';
    IF said LIKE '%:60%' OR said::timestamptz >= '10000-01-01Z' THEN
        RETURN NULL;
    END IF;
    RETURN datastorage.given_time(said::timestamptz);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END $$;
ALTER TABLE datastorage.action_traces ADD COLUMN assessed_at timestamptz;

ALTER TABLE datastorage.audit_records
    ADD COLUMN spec_hash bytea GENERATED ALWAYS AS (sha256(substring(content
        FROM position('\x7d2c2273706563223a'::bytea IN content) + 9
        FOR greatest(0, octet_length(content) - position('\x7d2c2273706563223a'::bytea IN content) - 9)))) STORED,
    ADD COLUMN stored_order bigint NOT NULL DEFAULT nextval('datastorage.storage_order'),
    ADD COLUMN diverged boolean NOT NULL DEFAULT false,
    ADD COLUMN resource_version bigint NOT NULL DEFAULT 0,
    ALTER COLUMN start_time TYPE timestamptz USING datastorage.given_time(start_time),
    ALTER COLUMN end_time TYPE timestamptz USING datastorage.given_time(end_time),
    ADD COLUMN happened_at timestamptz GENERATED ALWAYS AS (coalesce(start_time, created_at)) STORED,
    DROP CONSTRAINT audit_records_pkey,
    ADD PRIMARY KEY (uid, generation, created_at, spec_hash);
ALTER TABLE datastorage.action_traces
    ADD COLUMN spec_hash bytea GENERATED ALWAYS AS (sha256(substring(content
        FROM position('\x7d2c2273706563223a'::bytea IN content) + 9
        FOR greatest(0, octet_length(content) - position('\x7d2c2273706563223a'::bytea IN content) - 9)))) STORED,
    ADD COLUMN stored_order bigint NOT NULL DEFAULT nextval('datastorage.storage_order'),
    ADD COLUMN diverged boolean NOT NULL DEFAULT false,
    ADD COLUMN resource_version bigint NOT NULL DEFAULT 0,
    ALTER COLUMN start_time TYPE timestamptz USING datastorage.given_time(start_time),
    ALTER COLUMN end_time TYPE timestamptz USING datastorage.given_time(end_time),
    ALTER COLUMN assessed_at TYPE timestamptz USING datastorage.assessed_at(content),
    ADD COLUMN happened_at timestamptz
        GENERATED ALWAYS AS (greatest(created_at, start_time, end_time, assessed_at)) STORED,
    DROP CONSTRAINT action_traces_pkey,
    ADD PRIMARY KEY (uid, generation, created_at, spec_hash);
CREATE INDEX ON datastorage.audit_records (correlation_id, happened_at);
CREATE INDEX ON datastorage.action_traces (correlation_id, happened_at);
CREATE INDEX ON datastorage.audit_records USING gin (search) WITH (gin_pending_list_limit = 64);
CREATE INDEX ON datastorage.action_traces USING gin (search) WITH (gin_pending_list_limit = 64);
DROP FUNCTION datastorage.assessed_at(bytea);
DROP FUNCTION datastorage.given_time(timestamptz);

ALTER TABLE datastorage.rejected_objects
    ADD COLUMN spec_hash bytea GENERATED ALWAYS AS (sha256(substring(content
        FROM position('\x7d2c2273706563223a'::bytea IN content) + 9
        FOR greatest(0, octet_length(content) - position('\x7d2c2273706563223a'::bytea IN content) - 9)))) STORED,
    DROP CONSTRAINT rejected_objects_pkey,
    ADD PRIMARY KEY (uid, generation, spec_hash);

-- A pending vector belongs to a text. Two contents of one generation have one each, unless they share the text.
ALTER TABLE datastorage.vector_outbox
    DROP CONSTRAINT vector_outbox_pkey,
    ADD PRIMARY KEY (uid, generation, text_hash);

DROP FUNCTION datastorage.set_text_hashes(text, uuid[], bigint[], timestamptz[], bytea[]);

-- Sets the text of rows that have none yet: the one change that the service may make to a row,
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

-- Creates the partitions of the month that contains "at", as before, but as separate tables, which are attached
-- when they are ready. That delays no other transaction. To create a partition in place takes a lock that waits for
-- every transaction that has read the table (a dump, for example), and all other transactions would wait behind it.
CREATE OR REPLACE FUNCTION datastorage.ensure_partitions(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    month_start timestamptz := date_trunc('month', at, 'UTC');
    -- The session's time zone must not move the bound: the month is added in UTC.
    month_end   timestamptz := (date_trunc('month', at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    suffix      text := to_char(at AT TIME ZONE 'UTC', '"y"YYYY"m"MM');
    parent      text;
BEGIN
    IF at < '2014-01-01Z' OR at >= '2100-01-01Z' THEN
        RAISE EXCEPTION 'creation time % is outside 2014 to 2099', at USING ERRCODE = 'datetime_field_overflow';
    END IF;
    FOREACH parent IN ARRAY ARRAY['audit_records', 'action_traces'] LOOP
        IF to_regclass(format('datastorage.%I', parent || '_' || suffix)) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('datastorage.ensure_partitions', 0));
            -- Another replica may have made it meanwhile. Waiting for an advisory lock does not refresh what this
            -- session remembers of the catalogue; a failing CREATE does.
            BEGIN
                EXECUTE format('CREATE TABLE datastorage.%I (LIKE datastorage.%I INCLUDING ALL)',
                    parent || '_' || suffix, parent);
                EXECUTE format('ALTER TABLE datastorage.%I ATTACH PARTITION datastorage.%I FOR VALUES FROM (%L) TO (%L)',
                    parent, parent || '_' || suffix, month_start, month_end);
            EXCEPTION WHEN duplicate_table THEN NULL;
            END;
        END IF;
    END LOOP;
END $$;
