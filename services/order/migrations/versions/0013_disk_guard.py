"""No new orders while the disk is filling: the state, what was measured, and in words how much."""

from alembic import op

revision = "0013"
down_revision = "0012"

OWN = """
ALTER TABLE intake DROP CONSTRAINT intake_state_check;
ALTER TABLE intake ADD CONSTRAINT intake_state_check
  CHECK (state IN ('OPEN', 'SHUT', 'TRICKLE', 'PAUSED', 'GUARDED'));
ALTER TABLE intake ADD COLUMN measure text CHECK (measure IN ('WAL_KEPT', 'DATABASE_SIZE', 'DISK_FREE'));
ALTER TABLE intake ADD COLUMN detail text NOT NULL DEFAULT '';
"""


def upgrade() -> None:
    op.execute(OWN)
