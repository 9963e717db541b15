#!/usr/bin/env bash
# A PostgreSQL server as POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB ask for it.
set -euo pipefail
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
data=/var/lib/postgresql/data
if [ ! -f $data/PG_VERSION ]; then
    initdb -D $data -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=<(echo "$POSTGRES_PASSWORD")
    echo "host all all all scram-sha-256" >> $data/pg_hba.conf
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D $data postgres
fi
exec postgres -D $data -c listen_addresses='*' -k /tmp
