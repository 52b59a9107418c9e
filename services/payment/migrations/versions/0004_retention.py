"""The chassis' functions by which days past their time go."""

from alembic import op

from chassis import tables

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    tables.upgrade(op, 3)
