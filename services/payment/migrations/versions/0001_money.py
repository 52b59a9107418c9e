"""The chassis' tables, payments and the ledger."""

from alembic import op

from quadrille.service import schema

revision = "0001"
down_revision = None

# The ledger only grows: the app may neither change nor remove an entry, and a key is there once, for ever.
OWN = """
CREATE TABLE payment (
  order_id text PRIMARY KEY, state text NOT NULL, permitted bool NOT NULL, cancel_wanted bool NOT NULL,
  began_at timestamptz, code text, amount_minor bigint, currency text, payment_token text, deadline_at timestamptz
) WITH (fillfactor = 70);
CREATE TABLE entry (
  key text PRIMARY KEY, order_id text NOT NULL, kind text NOT NULL CHECK (kind IN ('CAPTURE', 'VOID', 'REFUND')),
  amount_minor bigint NOT NULL CHECK (amount_minor >= 0), currency text NOT NULL, reference text NOT NULL,
  at timestamptz NOT NULL);
CREATE INDEX ix_entry_order_id ON entry (order_id);
GRANT SELECT, INSERT, UPDATE ON payment TO app;
GRANT SELECT, INSERT ON entry TO app;
"""


def upgrade() -> None:
    schema.upgrade(op, 1)
    op.execute(OWN)
