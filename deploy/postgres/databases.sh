#!/bin/bash
# Run once, on an empty data directory: a database for each service, of a role that reaches no other.
set -eu

for service in scanner approvals itsm_gateway lifecycle savings; do
    password=RECLAIM_DATABASE_PASSWORD_${service^^}
    psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
        -v name="reclaim_$service" -v password="${!password:?is not set}" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
    -c 'REVOKE ALL ON DATABASE postgres FROM PUBLIC' -c 'REVOKE ALL ON DATABASE template1 FROM PUBLIC'
