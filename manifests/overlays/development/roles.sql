-- The roles that an administrator makes once, before the first start; the migrations do the rest.
-- psql runs it in the database of the archive, as a superuser.
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD

-- Owns the schema and runs the migrations, which make the group role if it is missing: hence CREATEROLE.
CREATE ROLE datastorage_owner LOGIN CREATEROLE PASSWORD :'owner_password';
GRANT CREATE ON DATABASE :"DBNAME" TO datastorage_owner;

-- What the running service logs in as. It gets its rights, INSERT and SELECT, from the group.
CREATE ROLE datastorage_service NOLOGIN;
CREATE ROLE datastorage_reader NOLOGIN;
CREATE ROLE datastorage LOGIN IN ROLE datastorage_service PASSWORD :'service_password';

-- Only a superuser may install it.
CREATE EXTENSION IF NOT EXISTS vector;
