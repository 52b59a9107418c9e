"""The chassis can rebuild a read model in a schema beside the live one."""

from alembic import op

from quadrille.service import schema

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    schema.upgrade(op, 7)
