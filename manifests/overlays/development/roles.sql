-- The roles that an administrator creates once, before the first start; the migrations do the rest.
-- psql runs this file in the database of the archive, as a superuser.
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD

-- The owner of the schema runs the migrations. They create a missing group role, which needs CREATEROLE.
CREATE ROLE datastorage_owner LOGIN CREATEROLE PASSWORD :'owner_password';
GRANT CREATE ON DATABASE :"DBNAME" TO datastorage_owner;

-- The login role of the running service. It gets its rights, INSERT and SELECT, from the group.
CREATE ROLE datastorage_service NOLOGIN;
CREATE ROLE datastorage_reader NOLOGIN;
CREATE ROLE datastorage LOGIN IN ROLE datastorage_service PASSWORD :'service_password';

-- Only a superuser may install the extension.
CREATE EXTENSION IF NOT EXISTS vector;
