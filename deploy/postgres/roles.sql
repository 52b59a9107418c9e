-- The roles of one service's cluster; @..._VERIFIER@ is a SCRAM verifier, so no password reaches the server's log.
ALTER ROLE postgres PASSWORD '@POSTGRES_VERIFIER@';
CREATE ROLE owner LOGIN PASSWORD '@OWNER_VERIFIER@';
CREATE ROLE app LOGIN PASSWORD '@APP_VERIFIER@';
CREATE ROLE relay LOGIN REPLICATION PASSWORD '@RELAY_VERIFIER@';
ALTER ROLE owner SET synchronous_commit = 'on';
ALTER ROLE owner SET lock_timeout = '2s';
ALTER ROLE owner SET statement_timeout = '20s';
ALTER ROLE owner SET transaction_timeout = '30s';
ALTER ROLE owner SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE app SET synchronous_commit = 'on';
ALTER ROLE app SET statement_timeout = '20s';
ALTER ROLE app SET transaction_timeout = '30s';
ALTER ROLE app SET idle_in_transaction_session_timeout = '10s';
-- The recovery's scan lives in one open transaction with an exported snapshot: the relay has no time-outs of its own.
ALTER ROLE relay SET synchronous_commit = 'on';
ALTER ROLE relay SET wal_sender_timeout = '5s';
ALTER ROLE relay SET transaction_timeout = '0';
ALTER ROLE relay SET idle_in_transaction_session_timeout = '0';
