"""Who is logged in: links that log in once, sessions, what came of their buttons; of secrets the hashes alone."""

from alembic import op

revision = "0002"
down_revision = "0001"

OWN = """
CREATE TABLE login (
  token bytea PRIMARY KEY, actor text NOT NULL, expires_at timestamptz NOT NULL, used_at timestamptz);
CREATE TABLE session (
  secret bytea PRIMARY KEY, actor text NOT NULL, began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL);
CREATE INDEX ON session (expires_at);
CREATE TABLE outcome (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  session bytea NOT NULL REFERENCES session ON DELETE CASCADE, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  level text NOT NULL, said text NOT NULL, command text NOT NULL, link text NOT NULL);
CREATE INDEX ON outcome (session);
GRANT SELECT, INSERT, UPDATE, DELETE ON login TO app;
GRANT SELECT, INSERT, DELETE ON session, outcome TO app;
"""


def upgrade() -> None:
    op.execute(OWN)
