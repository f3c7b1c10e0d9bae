-- The way by which a record came in, and the authenticated name of the caller who sent it (NULL: nobody vouches for
-- one). All earlier rows came from the cluster. A constant default changes no row.
ALTER TABLE datastorage.audit_records
    ADD COLUMN via text NOT NULL DEFAULT 'cluster' CHECK (via IN ('cluster', 'api')),
    ADD COLUMN recorded_by text;
ALTER TABLE datastorage.action_traces
    ADD COLUMN via text NOT NULL DEFAULT 'cluster' CHECK (via IN ('cluster', 'api')),
    ADD COLUMN recorded_by text;
ALTER TABLE datastorage.rejected_objects
    ADD COLUMN via text NOT NULL DEFAULT 'cluster' CHECK (via IN ('cluster', 'api')),
    ADD COLUMN recorded_by text;

-- From a caller to its newest records.
CREATE INDEX ON datastorage.audit_records (recorded_by, created_at) WHERE recorded_by IS NOT NULL;
CREATE INDEX ON datastorage.action_traces (recorded_by, created_at) WHERE recorded_by IS NOT NULL;

-- The identifiers that clients have chosen for their records, each valid in its namespace. The rows are in partitions
-- by their time of creation, so a repeated request, in whatever month it comes, finds its record only through this
-- table. An identifier never changes its record.
CREATE TABLE datastorage.claims (
    namespace       text        NOT NULL,
    identifier_hash bytea       NOT NULL CHECK (octet_length(identifier_hash) = 32),
    request_hash    bytea       NOT NULL CHECK (octet_length(request_hash) = 32),
    uid             uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    spec_hash       bytea       NOT NULL CHECK (octet_length(spec_hash) = 32),
    PRIMARY KEY (namespace, identifier_hash)
);
GRANT SELECT, INSERT ON datastorage.claims TO datastorage_service;
GRANT SELECT ON datastorage.claims TO datastorage_reader;
