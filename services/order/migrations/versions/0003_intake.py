"""Whether new orders are taken, and how sagas end, by which that is judged."""

from alembic import op

revision = "0003"
down_revision = "0002"

OWN = """
CREATE TABLE intake (
  only_one bool PRIMARY KEY DEFAULT true CHECK (only_one),
  state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'SHUT', 'TRICKLE', 'PAUSED')),
  since timestamptz NOT NULL DEFAULT now());
INSERT INTO intake DEFAULT VALUES;
CREATE TABLE tally (at timestamptz NOT NULL DEFAULT clock_timestamp(), ended int NOT NULL, failed int NOT NULL);
CREATE INDEX ON tally (at);
GRANT SELECT, UPDATE ON intake TO app;
GRANT SELECT, INSERT, DELETE ON tally TO app;
"""


def upgrade() -> None:
    op.execute(OWN)
