"""What is kept of a request that may be repeated: the guarantee is that a repeat gets the very answer of the first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Request:
    """An idempotency key that was used, and the answer it got."""

    caller: str
    route: str
    key: str
    fingerprint: str
    order_id: str
    answer: str
    at: datetime
