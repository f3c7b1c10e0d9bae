-- The group roles, where this server does not have the archive as well.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'datastorage_service') THEN
        CREATE ROLE datastorage_service NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'datastorage_reader') THEN
        CREATE ROLE datastorage_reader NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

-- A model and the width of its vectors. Each has a table of its own, embeddings_<id>: vectors of different
-- models can't be compared, and a column of a fixed width refuses what is not its own.
CREATE TABLE datastorage.embedding_models (
    id         smallint    NOT NULL PRIMARY KEY,
    provider   text        NOT NULL,
    name       text        NOT NULL,
    dimensions integer     NOT NULL CHECK (dimensions BETWEEN 1 AND 2000),
    open_part  integer     NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, name, dimensions)
);

-- The partitions of a model's table. New vectors go to the open part, which has no index and is searched
-- exactly. A full part is sealed, gets its index in one go, which costs a fraction of adding vectors to an
-- index one by one, and is merged with others of its level into one of the next.
CREATE TABLE datastorage.embedding_parts (
    model_id  smallint    NOT NULL REFERENCES datastorage.embedding_models,
    part      integer     NOT NULL,
    state     text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'sealed', 'indexed')),
    level     integer     NOT NULL DEFAULT 0,
    row_count bigint      NOT NULL DEFAULT 0,
    sealed_at timestamptz,
    PRIMARY KEY (model_id, part)
);

-- The numbers of parts. The sequence gives each number only once, so that sealing a part need not wait for a merge of
-- others. Each model's first part is number 1.
CREATE SEQUENCE datastorage.embedding_part_numbers AS integer START WITH 2;

-- The schema that pgvector is in, quoted for a statement.
CREATE FUNCTION datastorage.pgvector_schema() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector'
$$;

-- Creates a table that can become a part of a model's table, without an index for the search.
CREATE FUNCTION datastorage.make_embedding_part(of_model smallint, part integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    width integer := (SELECT dimensions FROM datastorage.embedding_models WHERE id = of_model);
BEGIN
    EXECUTE format('CREATE TABLE datastorage.embeddings_%s_%s (part integer NOT NULL CHECK (part = %2$s), '
        'text_hash bytea NOT NULL, embedding %s.vector(%s) NOT NULL)',
        of_model, part, datastorage.pgvector_schema(), width);
    -- A vector stays in its row: a search of a part without an index reads all of them.
    EXECUTE format('ALTER TABLE datastorage.embeddings_%s_%s ALTER COLUMN embedding SET STORAGE PLAIN',
        of_model, part);
END $$;

-- Returns the id of a model, and creates its table the first time. It runs with the owner's rights, so that the
-- service needs none to create tables. The number of models is bounded because the caller's input decides how
-- many tables exist.
CREATE FUNCTION datastorage.ensure_embedding_model(of_provider text, of_name text, of_dimensions integer)
RETURNS smallint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found smallint;
BEGIN
    SELECT id INTO found FROM datastorage.embedding_models
        WHERE provider = of_provider AND name = of_name AND dimensions = of_dimensions;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    LOCK TABLE datastorage.embedding_models IN SHARE ROW EXCLUSIVE MODE;
    SELECT id INTO found FROM datastorage.embedding_models
        WHERE provider = of_provider AND name = of_name AND dimensions = of_dimensions;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    SELECT coalesce(max(id), 0) + 1 INTO found FROM datastorage.embedding_models;
    IF found > 100 THEN
        RAISE EXCEPTION 'there are 100 embedding models already' USING ERRCODE = 'configuration_limit_exceeded';
    END IF;
    INSERT INTO datastorage.embedding_models (id, provider, name, dimensions)
        VALUES (found, of_provider, of_name, of_dimensions);
    EXECUTE format('CREATE TABLE datastorage.embeddings_%s (part integer NOT NULL, text_hash bytea NOT NULL, '
        'embedding %s.vector(%s) NOT NULL, PRIMARY KEY (text_hash, part)) PARTITION BY LIST (part)',
        found, datastorage.pgvector_schema(), of_dimensions);
    PERFORM datastorage.make_embedding_part(found, 1);
    EXECUTE format('ALTER TABLE datastorage.embeddings_%1$s ATTACH PARTITION datastorage.embeddings_%1$s_1 '
        'FOR VALUES IN (1)', found);
    INSERT INTO datastorage.embedding_parts (model_id, part) VALUES (found, 1);
    EXECUTE format('GRANT SELECT, INSERT ON datastorage.embeddings_%s TO datastorage_service', found);
    EXECUTE format('GRANT SELECT ON datastorage.embeddings_%s TO datastorage_reader', found);
    RETURN found;
END $$;

-- Opens a new part for the vectors to come when the open one has that many rows; returns whether it did. It takes
-- milliseconds, also while another session builds an index.
CREATE FUNCTION datastorage.seal_embeddings(of_model smallint, full_rows integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old  integer;
    new  integer;
    rows bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('datastorage.seal_embeddings', of_model)) THEN
        RETURN false; -- another replica is at it
    END IF;
    SELECT open_part INTO STRICT old FROM datastorage.embedding_models WHERE id = of_model;
    EXECUTE format('SELECT count(*) FROM datastorage.embeddings_%s_%s', of_model, old) INTO rows;
    IF rows < greatest(full_rows, 1) THEN
        RETURN false;
    END IF;
    new := nextval('datastorage.embedding_part_numbers');
    PERFORM datastorage.make_embedding_part(of_model, new);
    EXECUTE format('ALTER TABLE datastorage.embeddings_%1$s ATTACH PARTITION datastorage.embeddings_%1$s_%2$s '
        'FOR VALUES IN (%2$s)', of_model, new);
    INSERT INTO datastorage.embedding_parts (model_id, part) VALUES (of_model, new);
    UPDATE datastorage.embedding_parts SET state = 'sealed', row_count = rows, sealed_at = now()
        WHERE model_id = of_model AND part = old;
    UPDATE datastorage.embedding_models SET open_part = new WHERE id = of_model;
    RETURN true;
END $$;

-- Does one step of indexing: gives a sealed part its index, or merges that many indexed parts of one level.
-- Returns whether it did anything. A merge is left out where its index would not fit into the memory given,
-- because it would take many times longer then. Reads and writes go on meanwhile, except for the moment in
-- which the merged part takes the place of the others.
CREATE FUNCTION datastorage.index_embeddings(
    of_model smallint, memory_mib integer, grace_seconds double precision, merged_parts integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealed integer;
    merged record;
    new    integer;
    rows   bigint;
    -- What one vector takes while its index is built: itself, its neighbours on all layers, and overhead.
    bytes_per_row integer := (SELECT dimensions * 4 + 700 FROM datastorage.embedding_models WHERE id = of_model);
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('datastorage.index_embeddings', of_model)) THEN
        RETURN false; -- another replica is at it
    END IF;
    IF merged_parts < 2 THEN
        RAISE EXCEPTION 'fewer than two parts can''t be merged' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM set_config('maintenance_work_mem', greatest(memory_mib, 1) || 'MB', true),
        set_config('max_parallel_maintenance_workers', '0', true);
    -- A write that began before the part was sealed may still go there: the index's lock must not make it wait.
    SELECT part INTO sealed FROM datastorage.embedding_parts
        WHERE model_id = of_model AND state = 'sealed' AND sealed_at < now() - make_interval(secs => grace_seconds)
        ORDER BY part LIMIT 1;
    IF sealed IS NOT NULL THEN
        PERFORM datastorage.build_embedding_index(of_model, sealed);
        EXECUTE format('SELECT count(*) FROM datastorage.embeddings_%s_%s', of_model, sealed) INTO rows;
        UPDATE datastorage.embedding_parts SET state = 'indexed', row_count = rows
            WHERE model_id = of_model AND part = sealed;
        RETURN true;
    END IF;
    SELECT level, (array_agg(part ORDER BY part))[:merged_parts] AS parts INTO merged
        FROM datastorage.embedding_parts
        -- Some parts were large from the start. They stay as they are, and are in nobody's way.
        WHERE model_id = of_model AND state = 'indexed'
            AND row_count * merged_parts * bytes_per_row <= memory_mib::bigint * 1048576
        GROUP BY level HAVING count(*) >= merged_parts ORDER BY level LIMIT 1;
    IF merged IS NULL THEN
        RETURN false;
    END IF;
    new := nextval('datastorage.embedding_part_numbers');
    PERFORM datastorage.make_embedding_part(of_model, new);
    -- Nobody writes to these any more. Should a write come all the same, much belated, it must not get in
    -- between the copy and the removal.
    EXECUTE format('LOCK TABLE %s IN SHARE MODE', datastorage.embedding_part_tables(of_model, merged.parts));
    -- A text that was written twice at the same moment may be in several.
    EXECUTE format('INSERT INTO datastorage.embeddings_%1$s_%2$s (part, text_hash, embedding) '
        'SELECT DISTINCT ON (text_hash) %2$s, text_hash, embedding FROM datastorage.embeddings_%1$s '
        'WHERE part = ANY ($1)', of_model, new) USING merged.parts;
    GET DIAGNOSTICS rows = ROW_COUNT;
    EXECUTE format('ALTER TABLE datastorage.embeddings_%s_%s ADD PRIMARY KEY (text_hash, part)', of_model, new);
    PERFORM datastorage.build_embedding_index(of_model, new);
    EXECUTE format('ANALYZE datastorage.embeddings_%s_%s', of_model, new);
    PERFORM datastorage.drop_embedding_parts(of_model, merged.parts);
    EXECUTE format('ALTER TABLE datastorage.embeddings_%1$s ATTACH PARTITION datastorage.embeddings_%1$s_%2$s '
        'FOR VALUES IN (%2$s)', of_model, new);
    DELETE FROM datastorage.embedding_parts WHERE model_id = of_model AND part = ANY (merged.parts);
    INSERT INTO datastorage.embedding_parts (model_id, part, state, level, row_count)
        VALUES (of_model, new, 'indexed', merged.level + 1, rows);
    RETURN true;
END $$;

-- The names of parts' tables, quoted for a statement.
CREATE FUNCTION datastorage.embedding_part_tables(of_model smallint, parts integer[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('datastorage.embeddings_%s_%s', of_model, part), ', ') FROM unnest(parts) AS p (part)
$$;

-- Drops parts. From here to the end of the transaction, searches and writes wait. If other transactions hold locks on
-- the tables for long, this one stops waiting, so that those behind it can continue, and tries again a little later.
-- To end it would lose the index that it has built.
CREATE FUNCTION datastorage.drop_embedding_parts(of_model smallint, parts integer[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- No shorter: after a second the server makes its own vacuum give way.
    PERFORM set_config('lock_timeout', '2s', true);
    FOR attempt IN 1..10 LOOP
        BEGIN
            EXECUTE 'DROP TABLE ' || datastorage.embedding_part_tables(of_model, parts);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(5);
        END;
    END LOOP;
    RAISE EXCEPTION 'others have held the tables of embedding model % for a minute', of_model
        USING ERRCODE = 'lock_not_available';
END $$;

CREATE FUNCTION datastorage.build_embedding_index(of_model smallint, part integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE INDEX ON datastorage.embeddings_%s_%s USING hnsw (embedding %s.vector_cosine_ops) '
        'WITH (m = 16, ef_construction = 64)', of_model, part, datastorage.pgvector_schema());
END $$;

REVOKE ALL ON FUNCTION datastorage.make_embedding_part(smallint, integer),
    datastorage.drop_embedding_parts(smallint, integer[]),
    datastorage.embedding_part_tables(smallint, integer[]),
    datastorage.build_embedding_index(smallint, integer),
    datastorage.seal_embeddings(smallint, integer),
    datastorage.index_embeddings(smallint, integer, double precision, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION datastorage.seal_embeddings(smallint, integer),
    datastorage.index_embeddings(smallint, integer, double precision, integer) TO datastorage_service;
GRANT SELECT ON datastorage.embedding_parts TO datastorage_service, datastorage_reader;
REVOKE ALL ON FUNCTION datastorage.ensure_embedding_model(text, text, integer) FROM PUBLIC;
GRANT USAGE ON SCHEMA datastorage TO datastorage_service, datastorage_reader;
-- Both need the type's schema too. Where that is "public", as a rule everybody may use it.
DO $$
DECLARE
    home text := datastorage.pgvector_schema();
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['datastorage_service', 'datastorage_reader'] LOOP
        IF NOT has_schema_privilege(role, home::regnamespace, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', home, role);
        END IF;
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION datastorage.ensure_embedding_model(text, text, integer) TO datastorage_service;
GRANT SELECT ON datastorage.embedding_models, datastorage.vector_schema_version TO datastorage_service;
GRANT SELECT ON datastorage.embedding_models, datastorage.vector_schema_version TO datastorage_reader;
