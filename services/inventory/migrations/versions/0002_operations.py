"""The chassis' tables of long actions, privileged actions and beats."""

from alembic import op

from chassis import tables

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    tables.upgrade(op, 2)
