"""The chassis' tables, notices and the address book."""

from alembic import op

from quadrille.service import schema

revision = "0001"
down_revision = None

OWN = """
CREATE TABLE notice (
  order_id text NOT NULL, kind text NOT NULL, state text NOT NULL, outdated bool NOT NULL, because text,
  changed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (order_id, kind)) WITH (fillfactor = 85);
CREATE TABLE contact (customer_id text PRIMARY KEY, address text NOT NULL);
GRANT SELECT, INSERT, UPDATE ON notice TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON contact TO app;
"""


def upgrade() -> None:
    schema.upgrade(op, 1)
    op.execute(OWN)
