"""The feed of every caller's changes, and the webhooks that are told of an order's end."""

from alembic import op

revision = "0012"
down_revision = "0011"

# A change is a row of few bytes: what it says stands in the order's history, from ``since`` to ``upto``. Its place is
# what the feed is read by (order.store); its key is its only index, and grows at each caller's end alone.
OWN = """
CREATE TABLE order_change (
  caller text, place xid8, order_id uuid, since int NOT NULL, upto int, ends bool NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (caller, place, order_id, upto));
CREATE TABLE order_change_gone (caller text PRIMARY KEY, place xid8 NOT NULL);
CREATE TABLE webhook (
  webhook_id uuid PRIMARY KEY, caller text NOT NULL, url text NOT NULL, types text[] NOT NULL, secrets jsonb NOT NULL,
  place xid8 NOT NULL, order_id uuid NOT NULL, sequence int NOT NULL, created_at timestamptz NOT NULL,
  delivered_at timestamptz, disabled_at timestamptz, disabled_because text, failure jsonb);
CREATE INDEX ON webhook (caller, webhook_id);
GRANT SELECT, INSERT, DELETE ON order_change TO app;
GRANT SELECT, INSERT, UPDATE ON order_change_gone TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook TO app;
"""


def upgrade() -> None:
    op.execute(OWN)
