-- A search with a condition that few records meet looks their texts up in every part, though each is in one of them. In
-- an index of numbers, made of the first four bytes of the hashes, this takes half as long as in one of hashes. Two
-- texts with the same number do no harm: the records are found by the whole hash.
CREATE FUNCTION datastorage.build_embedding_lookup(of_model smallint, part integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE INDEX ON datastorage.embeddings_%s_%s ((get_byte(text_hash, 0) << 24 '
        '| get_byte(text_hash, 1) << 16 | get_byte(text_hash, 2) << 8 | get_byte(text_hash, 3)))', of_model, part);
END $$;

-- As before, with that index.
CREATE OR REPLACE FUNCTION datastorage.make_embedding_part(of_model smallint, part integer) RETURNS void
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
    PERFORM datastorage.build_embedding_lookup(of_model, part);
END $$;

-- Writes of vectors wait while the indexes of the parts that there are get built: about a second for each million.
SELECT datastorage.build_embedding_lookup(model_id, part) FROM datastorage.embedding_parts;

REVOKE ALL ON FUNCTION datastorage.build_embedding_lookup(smallint, integer) FROM PUBLIC;
