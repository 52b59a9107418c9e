"""The chassis' table of intents and timers is called ``task``."""

from alembic import op

from quadrille.service import schema

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    schema.upgrade(op, 5)
