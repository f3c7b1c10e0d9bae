-- The group role of the service: it may add to the archive and read it, never change or remove a row.
-- Roles belong to the whole server, so another database's migration may have made it already.
-- Where it exists the owner needs no right to make roles.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'datastorage_service') THEN
        CREATE ROLE datastorage_service NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

-- One generation of one object per row. The bytes are the evidence, the columns are the index:
-- content is canonical JSON, content_hash its SHA-256, everything after stored_at is extracted from it.
-- A type extracted from a record is text without a limit here: the API server has checked it already,
-- and a later version of the resource must not meet an older column.
CREATE TABLE datastorage.audit_records (
    uid                  uuid        NOT NULL,
    generation           bigint      NOT NULL,
    created_at           timestamptz NOT NULL,
    namespace            text        NOT NULL,
    name                 text        NOT NULL,
    content              bytea       NOT NULL,
    content_hash         bytea       NOT NULL CHECK (octet_length(content_hash) = 32),
    stored_at            timestamptz NOT NULL DEFAULT now(),
    type                 text,
    action               text,
    phase                text,
    correlation_id       text,
    start_time           timestamptz,
    end_time             timestamptz,
    severity             text,
    environment          text,
    cluster              text,
    actor_kind           text,
    actor_name           text,
    resource_api_version text,
    resource_kind        text,
    resource_namespace   text,
    resource_name        text,
    resource_uid         text,
    alert_fingerprint    text,
    search               tsvector,
    PRIMARY KEY (uid, generation, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX ON datastorage.audit_records (created_at, uid);
CREATE INDEX ON datastorage.audit_records (correlation_id, created_at);
CREATE INDEX ON datastorage.audit_records (namespace, created_at);
CREATE INDEX ON datastorage.audit_records (type, created_at);
CREATE INDEX ON datastorage.audit_records (resource_kind, resource_namespace, resource_name, created_at);
CREATE INDEX ON datastorage.audit_records (alert_fingerprint, created_at) WHERE alert_fingerprint IS NOT NULL;
CREATE INDEX ON datastorage.audit_records USING gin (search);

CREATE TABLE datastorage.action_traces (
    uid                 uuid        NOT NULL,
    generation          bigint      NOT NULL,
    created_at          timestamptz NOT NULL,
    namespace           text        NOT NULL,
    name                text        NOT NULL,
    content             bytea       NOT NULL,
    content_hash        bytea       NOT NULL CHECK (octet_length(content_hash) = 32),
    stored_at           timestamptz NOT NULL DEFAULT now(),
    final               boolean     NOT NULL,
    correlation_id      text,
    action_type         text,
    target_api_version  text,
    target_kind         text,
    target_namespace    text,
    target_name         text,
    alert_name          text,
    alert_severity      text,
    alert_fingerprint   text,
    model_name          text,
    model_confidence    double precision,
    execution_status    text,
    start_time          timestamptz,
    end_time            timestamptz,
    effectiveness_score double precision,
    search              tsvector,
    PRIMARY KEY (uid, generation, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX ON datastorage.action_traces (created_at, uid);
CREATE INDEX ON datastorage.action_traces (correlation_id, created_at);
CREATE INDEX ON datastorage.action_traces (namespace, created_at);
CREATE INDEX ON datastorage.action_traces (action_type, created_at);
CREATE INDEX ON datastorage.action_traces (target_kind, target_namespace, target_name, created_at);
CREATE INDEX ON datastorage.action_traces (alert_fingerprint, created_at) WHERE alert_fingerprint IS NOT NULL;
CREATE INDEX ON datastorage.action_traces USING gin (search);

-- Dead letters: what PostgreSQL refused as a row above is kept here byte for byte. Nothing is lost.
CREATE TABLE datastorage.rejected_objects (
    uid          uuid        NOT NULL,
    generation   bigint      NOT NULL,
    created_at   timestamptz NOT NULL,
    rejected_at  timestamptz NOT NULL DEFAULT now(),
    table_name   text        NOT NULL,
    namespace    text        NOT NULL,
    name         text        NOT NULL,
    content      bytea       NOT NULL,
    content_hash bytea       NOT NULL CHECK (octet_length(content_hash) = 32),
    reason       text        NOT NULL,
    PRIMARY KEY (uid, generation)
);

-- lz4 packs and unpacks several times faster than the default; a server built without it keeps the default.
DO $$
BEGIN
    ALTER TABLE datastorage.audit_records ALTER COLUMN content SET COMPRESSION lz4;
    ALTER TABLE datastorage.action_traces ALTER COLUMN content SET COMPRESSION lz4;
    ALTER TABLE datastorage.rejected_objects ALTER COLUMN content SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- Makes the partitions of the month that holds "at", in UTC, where they are missing. It runs with the
-- owner's rights, so that the service needs none to create tables. The years are bounded because
-- the caller's input decides how many tables exist, and each query on the whole archive locks all of them.
CREATE FUNCTION datastorage.ensure_partitions(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
            -- Another replica may have made it meanwhile. Only IF NOT EXISTS sees that: waiting for an
            -- advisory lock does not refresh what this session remembers of the catalogue.
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS datastorage.%I PARTITION OF datastorage.%I FOR VALUES FROM (%L) TO (%L)',
                parent || '_' || suffix, parent, month_start, month_end);
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION datastorage.ensure_partitions(timestamptz) FROM PUBLIC;
GRANT USAGE ON SCHEMA datastorage TO datastorage_service;
GRANT SELECT, INSERT ON datastorage.audit_records, datastorage.action_traces, datastorage.rejected_objects
    TO datastorage_service;
GRANT SELECT ON datastorage.schema_version TO datastorage_service;
GRANT EXECUTE ON FUNCTION datastorage.ensure_partitions(timestamptz) TO datastorage_service;
