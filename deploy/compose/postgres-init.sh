#!/bin/sh
# Run once by the postgres image, before the server is reachable: roles, database and settings of one service's cluster.
set -eu
templates=/quadrille
psql() { command psql --quiet --set ON_ERROR_STOP=1 --username postgres "$@"; }

sed "s/@[A-Z]*_VERIFIER@/$POSTGRES_PASSWORD/" "$templates/roles.sql" | psql
psql --command "CREATE DATABASE \"$QUADRILLE_SERVICE\" OWNER owner"
sed "s/@DATABASE@/$QUADRILLE_SERVICE/" "$templates/database.sql" | psql --dbname "$QUADRILLE_SERVICE"

sed -e "s/@PORT@/5432/" -e "s/^listen_addresses .*/listen_addresses = '*'/" -e "/^unix_socket_directories/d" \
    "$templates/postgresql.conf" >>"$PGDATA/postgresql.conf"
sed -e "s/@DATABASE@/$QUADRILLE_SERVICE/" -e "s/@NETWORK@/samenet/" "$templates/pg_hba.conf" >"$PGDATA/pg_hba.conf"
