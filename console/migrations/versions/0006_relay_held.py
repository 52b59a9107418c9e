"""The chassis' tables of what a relay sets aside; the console has no relay, and may hear a topic made anew."""

from alembic import op

from quadrille.service import schema

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    schema.upgrade(op, 8)
