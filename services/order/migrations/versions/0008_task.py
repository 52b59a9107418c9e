"""The chassis' table of intents and timers is called ``task``."""

from alembic import op

from quadrille.service import schema

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    schema.upgrade(op, 5)
