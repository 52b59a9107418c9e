"""How a person ended what payment owed, and on what evidence."""

from alembic import op

revision = "0003"
down_revision = "0002"

OWN = """
ALTER TABLE payment ADD COLUMN how text CHECK (how IN ('WRITTEN_OFF', 'EXTERNAL')), ADD COLUMN operator text,
  ADD COLUMN evidence text, ADD COLUMN contradicted bool,
  ADD CHECK (num_nulls(how, operator, evidence, contradicted) IN (0, 4))
"""


def upgrade() -> None:
    op.execute(OWN)
