-- An export reads the rows in the order of stored_order, which every row has already (0003): no row changes here.
-- storage/export.py says up to which position all rows are committed. Each table is read once, and takes no rows
-- meanwhile; the records wait in the cluster.
CREATE INDEX ON datastorage.audit_records (stored_order);
CREATE INDEX ON datastorage.action_traces (stored_order);

-- A position beyond the last one is of another archive, or of this one before it was restored from a backup.
GRANT SELECT ON SEQUENCE datastorage.storage_order TO datastorage_service, datastorage_reader;
