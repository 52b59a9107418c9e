"""An order that ended CANCELLED frees its reference: it is unique among the others only."""

from alembic import op

revision = "0007"
down_revision = "0006"

# The new index stands before the old one goes: no two orders ever share a reference meanwhile. Orders are found by
# their references whatever became of them, so that needs an index of its own.
OWN = """
CREATE UNIQUE INDEX orders_reference_taken ON orders (caller, customer_id, reference)
  WHERE reference IS NOT NULL AND status <> 'CANCELLED';
CREATE INDEX orders_reference ON orders (caller, reference, order_id) WHERE reference IS NOT NULL;
ALTER TABLE orders DROP CONSTRAINT orders_caller_reference_customer_id_key;
"""


def upgrade() -> None:
    op.execute(OWN)
