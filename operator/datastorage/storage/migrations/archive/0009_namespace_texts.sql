-- A search in a namespace compares the question with all of its texts, if these are not too many. Their hashes are
-- read from this index alone; in the rows, they stand on as many pages as there are records.
CREATE INDEX ON datastorage.audit_records (namespace, created_at) INCLUDE (text_hash);
CREATE INDEX ON datastorage.action_traces (namespace, created_at) INCLUDE (text_hash);

-- It serves whatever these have served.
DROP INDEX datastorage.audit_records_namespace_created_at_idx;
DROP INDEX datastorage.action_traces_namespace_created_at_idx;
