"""The chassis' tables of what a relay sets aside; the console has no relay, and may hear a topic made anew."""

from alembic import op

from quadrille.service import schema

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    schema.upgrade(op, 8)
