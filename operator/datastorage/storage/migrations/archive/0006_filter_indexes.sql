-- Indexes for conditions of lists that few of the rows meet. Without one, the newest rows are read one by one until
-- the page is full, and if no row meets the condition (a misspelt name, say), all of them are.
--
-- A record need not have the values, and a row without one costs its index nothing.
CREATE INDEX ON datastorage.audit_records (action, created_at);
CREATE INDEX ON datastorage.audit_records (actor_name, created_at) WHERE actor_name IS NOT NULL;
CREATE INDEX ON datastorage.audit_records (cluster, created_at) WHERE cluster IS NOT NULL;
CREATE INDEX ON datastorage.audit_records (environment, created_at) WHERE environment IS NOT NULL;

-- Failures are few, and are what people look for: in the whole archive, and in the one namespace that most callers may
-- read. Other outcomes are found among the newest rows.
CREATE INDEX ON datastorage.audit_records (created_at) WHERE phase = 'Failed';
CREATE INDEX ON datastorage.audit_records (namespace, created_at) WHERE phase = 'Failed';
CREATE INDEX ON datastorage.action_traces (created_at) WHERE execution_status IN ('Failed', 'RolledBack');
CREATE INDEX ON datastorage.action_traces (namespace, created_at) WHERE execution_status IN ('Failed', 'RolledBack');
