"""The chassis' tables of what the relay sets aside, sends once more, and misses in a restored database."""

from alembic import op

from quadrille.service import schema

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    schema.upgrade(op, 8)
