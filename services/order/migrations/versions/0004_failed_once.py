"""A saga that failed is known by its key, so that it counts once."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE tally ADD COLUMN key text UNIQUE")
