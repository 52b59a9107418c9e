"""What order's processes alone may be told: its deadlines, and when new orders are refused."""

from __future__ import annotations

from datetime import timedelta

from pydantic import DirectoryPath, Field

from quadrille.app import Duration, OutagePolicy, Settings, Size


class OrderSettings(Settings):
    """Order's settings: an order's deadline and cut-off, when one is stuck, and when no new ones are taken.

    The deadline is longer than an outage of ten minutes, so that by default none costs an order. ``outage_…`` is what
    becomes of orders that wait for a participant whose heartbeat is gone.
    ``webhook_loopback`` lets a caller's endpoint be on this machine, and be told without TLS.
    """

    order_deadline: Duration = timedelta(minutes=15)
    order_cancel_cutoff: Duration = timedelta(minutes=30)
    outage_inventory: OutagePolicy = "wait"
    outage_payment: OutagePolicy = "wait"
    stuck_warn: Duration = timedelta(minutes=5)
    stuck_page: Duration = timedelta(minutes=10)
    stuck_escalate: Duration = timedelta(minutes=30)
    intake_failure_rate: float = Field(0.05, gt=0, le=1)
    intake_failure_minimum: int = Field(20, ge=1)
    intake_failure_window: Duration = timedelta(minutes=5)
    intake_rest: Duration = timedelta(seconds=30)
    # The disk of its database: log kept for a slot, the database, and what is free where a directory of it is seen.
    intake_wal_kept: Size = 1_500_000_000
    intake_database_size: Size = 0
    intake_disk_free: Size = 256_000_000
    intake_disk_directory: DirectoryPath | None = None
    webhook_loopback: bool = False


SETTINGS = OrderSettings
