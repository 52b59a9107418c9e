"""Idempotency keys are the chassis's: the answers kept so far move into its table, and are given as before."""

from alembic import op

revision = "0009"
down_revision = "0008"

OWN = """
INSERT INTO idempotency_key (caller, route, key, fingerprint, subject, answer, at)
SELECT caller, route, key, fingerprint, order_id::text, answer, at FROM request;
DROP TABLE request;
"""


def upgrade() -> None:
    op.execute(OWN)
