"""The chassis' tables of what a restored database has published and forgotten, and how it is read back."""

from alembic import op

from quadrille.service import schema

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    schema.upgrade(op, 9)
