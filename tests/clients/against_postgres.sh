#!/usr/bin/env bash
# Runs these suites against a throw-away PostgreSQL with no proxy between: whatever fails here is a mistake of the suite.
# Arguments go to pytest. PG_BINDIR names the binaries, PORT the port (55432), PYTHON the interpreter of the venv.
set -euo pipefail
cd "$(dirname "$0")"
bin=${PG_BINDIR:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
port=${PORT:-55432}
python=${PYTHON:-python3}
dir=$(mktemp -d /tmp/weir-clients.XXXXXX)
as_postgres() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

[ "$(id -u)" = 0 ] && chown postgres "$dir"
trap 'as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT
printf 'postgres' >"$dir/password"
chmod 644 "$dir/password"
as_postgres "$bin/initdb" -D "$dir/data" -U postgres --pwfile="$dir/password" -A scram-sha-256 -E UTF8 --locale=C.UTF-8 >/dev/null
cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$dir'
max_connections = 200
max_prepared_transactions = 50
wal_level = logical
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
CONF
as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null
export PGPASSWORD=postgres
"$bin/psql" -qX -h 127.0.0.1 -p "$port" -U postgres -d postgres \
    -c "create role app login password 'app'" -c "create database app owner app"
unset PGPASSWORD
export PG_BINDIR=$bin
export WEIR_DIRECT_URL=postgresql://app:app@127.0.0.1:$port/app
export WEIR_ADMIN_URL=postgresql://postgres:postgres@127.0.0.1:$port/app
"$python" -m pytest "$@"
