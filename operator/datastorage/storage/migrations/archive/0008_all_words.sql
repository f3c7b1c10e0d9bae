-- From now on "search" holds the words of the whole spec. The version says by which rules its words were made. It is
-- NULL in rows from before, and in those that an older program stores beside this one. They are found by the words
-- that they have, until "datastorage reindex" gives them the others. No row changes here, and no index is built: both
-- would hold back all writes of a large archive.
ALTER TABLE datastorage.audit_records ADD COLUMN search_version smallint;
ALTER TABLE datastorage.action_traces ADD COLUMN search_version smallint;
