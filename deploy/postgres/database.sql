-- Run as superuser inside the service's own database, right after CREATE DATABASE ... OWNER owner.
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
REVOKE ALL ON DATABASE "@DATABASE@" FROM PUBLIC;
GRANT CONNECT ON DATABASE "@DATABASE@" TO app, relay;
GRANT USAGE ON SCHEMA public TO app, relay;
