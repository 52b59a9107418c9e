"""The chassis' word for which Kafka a relay's position belongs to, and days that a parked record keeps."""

from alembic import op

from quadrille.service import schema

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    schema.upgrade(op, 4)
