"""The chassis' functions by which days past their time go."""

from alembic import op

from quadrille.service import schema

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    schema.upgrade(op, 3)
