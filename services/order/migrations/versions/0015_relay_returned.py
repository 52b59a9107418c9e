"""The chassis' tables of what a restored database has published and forgotten, and how it is read back."""

from alembic import op

from quadrille.service import schema

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    schema.upgrade(op, 9)
