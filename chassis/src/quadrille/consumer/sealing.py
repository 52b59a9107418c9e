"""Seals of the audit: the chain's head is said on ``ops.events`` from time to time.

Whoever rewrites a chain, or cuts its tail off, would have to rewrite the topic too: a head that was said once is the
hash of a row for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from quadrille.db import audit
from quadrille.ids import uuid7
from quadrille.processing.outbox import announce
from quadrille.service import Service, Tx
from quadrille.system_messages import AuditSealed


class Sealing:
    """Says the head when it is time and another one than this worker said last; several workers say it each."""

    def __init__(self, service: Service[Any], every: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._service, self._every, self._clock = service, every.total_seconds(), clock
        self._said, self._at = "", clock()

    def look(self, tx: Tx) -> None:
        """Say the head if it is time."""
        if self._clock() - self._at < self._every:
            return
        if (head := audit.head(tx)) and head != self._said:
            with tx.transaction():
                announce(tx, self._service, uuid7(), AuditSealed(self._service.name, head))
            self._said = head
        self._at = self._clock()
