"""The chassis' tables, orders, idempotency keys and blocked customers."""

from alembic import op

from quadrille.service import schema

revision = "0001"
down_revision = None

# Unfinished orders are few, and so is what goes wrong: their indexes are small. The reference's index is for ever.
OWN = """
CREATE TABLE orders (
  order_id uuid PRIMARY KEY, caller text NOT NULL, customer_id text NOT NULL, reference text, lines jsonb NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor >= 0), currency text NOT NULL, status text NOT NULL,
  intent text NOT NULL GENERATED ALWAYS AS (CASE WHEN reason IS NULL THEN 'GO' ELSE 'CANCEL' END) STORED,
  states jsonb NOT NULL, version bigint NOT NULL, history jsonb NOT NULL, detail jsonb NOT NULL,
  placed_at timestamptz NOT NULL, deadline_at timestamptz NOT NULL, cancellable_until timestamptz,
  reason text, attention text, trace_id text NOT NULL,
  UNIQUE (caller, reference, customer_id)) WITH (fillfactor = 60);
CREATE INDEX ON orders (caller, order_id);
CREATE INDEX ON orders (caller, customer_id, order_id);
CREATE INDEX ON orders (caller, status, order_id) WHERE status NOT IN ('CONFIRMED', 'CANCELLED');
CREATE INDEX ON orders (caller, reason, order_id) WHERE reason IS NOT NULL;
CREATE INDEX ON orders (caller, attention, order_id) WHERE attention IS NOT NULL;
CREATE INDEX ON orders USING gin (lines jsonb_path_ops);
CREATE TABLE request (
  caller text, route text, key text, fingerprint text NOT NULL, order_id uuid NOT NULL, answer text NOT NULL,
  at timestamptz NOT NULL, PRIMARY KEY (caller, route, key));
CREATE TABLE blocked (customer_id text PRIMARY KEY);
GRANT SELECT, INSERT, UPDATE ON orders, request TO app;
GRANT SELECT ON blocked TO app;
"""


def upgrade() -> None:
    schema.upgrade(op, 1)
    op.execute(OWN)
