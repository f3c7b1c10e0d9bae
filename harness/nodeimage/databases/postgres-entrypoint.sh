#!/bin/sh
# What the official image does with POSTGRES_PASSWORD, POSTGRES_DB, PGDATA and /docker-entrypoint-initdb.d/*.sql:
# the first start makes the database and runs the scripts, before the server listens on TCP.
set -eu
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_DB:=postgres}"
sockets=/var/run/postgresql
[ "${1:-}" = postgres ] && shift

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  password=$(mktemp)
  trap 'rm -f "$password"' EXIT
  printf %s "$POSTGRES_PASSWORD" > "$password"
  mkdir -p "$PGDATA"
  initdb --username=postgres --pwfile="$password" --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 -D "$PGDATA"
  rm -f "$password"
  trap - EXIT
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses='' -c unix_socket_directories=$sockets" start
  [ "$POSTGRES_DB" = postgres ] || createdb -h "$sockets" -U postgres "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sql; do
    [ -e "$script" ] || continue
    psql -v ON_ERROR_STOP=1 --no-psqlrc -h "$sockets" -U postgres -d "$POSTGRES_DB" -f "$script"
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories="$sockets" "$@"
