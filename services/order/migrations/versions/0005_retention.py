"""The chassis' functions by which days past their time go, and the right to forget idempotency keys."""

from alembic import op

from quadrille.service import schema

revision = "0005"
down_revision = "0004"

OWN = """
CREATE INDEX ON request (at);
GRANT DELETE ON request TO app;
"""


def upgrade() -> None:
    schema.upgrade(op, 3)
    op.execute(OWN)
