-- A search with a condition that few records meet looks their texts up in every part, though each is in one of them. In
-- an index of numbers, made of the first four bytes of the hashes, this takes half as long as in one of hashes. Two
-- texts with the same number do no harm: the records are found by the whole hash.
--
-- Writes of vectors wait while the indexes are built: about a second for each million.
CREATE FUNCTION datastorage.embedding_lookup() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '((get_byte(text_hash, 0) << 24 | get_byte(text_hash, 1) << 16 | get_byte(text_hash, 2) << 8 '
        '| get_byte(text_hash, 3)))'
$$;

DO $$
DECLARE
    model smallint;
BEGIN
    FOR model IN SELECT id FROM datastorage.embedding_models LOOP
        EXECUTE format('CREATE INDEX ON datastorage.embeddings_%s %s', model, datastorage.embedding_lookup());
    END LOOP;
END $$;

-- As before, and the table of a new model has the index.
CREATE OR REPLACE FUNCTION datastorage.ensure_embedding_model(of_provider text, of_name text, of_dimensions integer)
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
    EXECUTE format('CREATE INDEX ON datastorage.embeddings_%s %s', found, datastorage.embedding_lookup());
    PERFORM datastorage.make_embedding_part(found, 1);
    EXECUTE format('ALTER TABLE datastorage.embeddings_%1$s ATTACH PARTITION datastorage.embeddings_%1$s_1 '
        'FOR VALUES IN (1)', found);
    INSERT INTO datastorage.embedding_parts (model_id, part) VALUES (found, 1);
    EXECUTE format('GRANT SELECT, INSERT ON datastorage.embeddings_%s TO datastorage_service', found);
    EXECUTE format('GRANT SELECT ON datastorage.embeddings_%s TO datastorage_reader', found);
    RETURN found;
END $$;

-- As before, and a merged part has the index before it takes the place of the others.
CREATE OR REPLACE FUNCTION datastorage.index_embeddings(
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
    EXECUTE format('CREATE INDEX ON datastorage.embeddings_%s_%s %s', of_model, new, datastorage.embedding_lookup());
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

REVOKE ALL ON FUNCTION datastorage.embedding_lookup() FROM PUBLIC;
