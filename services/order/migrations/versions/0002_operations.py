"""The chassis' tables of long actions, privileged actions and beats."""

from alembic import op

from quadrille.service import schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    schema.upgrade(op, 2)
