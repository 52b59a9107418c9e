"""What a login and a session act with: an API key, sealed by the token or cookie that nobody but its bearer has."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE login ADD sealed bytea")
    op.execute("ALTER TABLE session ADD sealed bytea")
