"""The chassis' columns of why an input is parked, and of what the outside said last."""

from alembic import op

from quadrille.service import schema

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    schema.upgrade(op, 6)
