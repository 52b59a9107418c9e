"""The chassis' tables, holds and levels."""

from alembic import op

from quadrille.service import schema

revision = "0001"
down_revision = None

# The level's checks are the last defence of invariant 6: what breaks them is parked, never stored.
OWN = """
CREATE TABLE hold (
  order_id text PRIMARY KEY, skus text[] NOT NULL, quantities int[] NOT NULL, state text NOT NULL,
  CHECK (cardinality(skus) = cardinality(quantities))) WITH (fillfactor = 85);
CREATE TABLE level (
  sku text PRIMARY KEY, available bigint NOT NULL CHECK (available >= 0), held bigint NOT NULL CHECK (held >= 0),
  committed bigint NOT NULL CHECK (committed >= 0), received bigint NOT NULL, sealed bool NOT NULL,
  version bigint NOT NULL, CHECK (received = available + held + committed)) WITH (fillfactor = 40);
GRANT SELECT, INSERT, UPDATE ON hold, level TO app;
"""


def upgrade() -> None:
    schema.upgrade(op, 1)
    op.execute(OWN)
