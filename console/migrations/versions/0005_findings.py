"""What the reconciler has found, how far that was said, and how its last round went."""

from alembic import op

revision = "0005"
down_revision = "0004"

# ``said``: 0 nothing yet, 1 that it was found, 2 that it is so no more.
OWN = """
CREATE TABLE finding (
  finding_id uuid PRIMARY KEY, order_id text NOT NULL, kind text NOT NULL, expected text NOT NULL, found text NOT NULL,
  evidence text[] NOT NULL, mender text, event text, raised_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp(), closed_at timestamptz, said int NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX ON finding (order_id, kind) WHERE closed_at IS NULL;
CREATE INDEX ON finding (raised_at, finding_id);
CREATE INDEX ON finding (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX ON finding (raised_at) WHERE said < 2;
CREATE TABLE reconciliation (
  only_one bool PRIMARY KEY DEFAULT true CHECK (only_one), at timestamptz NOT NULL, outcome text NOT NULL,
  detail text NOT NULL, judged bigint NOT NULL, moving bigint NOT NULL, judged_at timestamptz);
GRANT SELECT, INSERT, UPDATE, DELETE ON finding, reconciliation TO app;
"""


def upgrade() -> None:
    op.execute(OWN)
