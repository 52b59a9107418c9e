"""Retention: the coming days get their partitions, and what is past its time goes, but nothing that is still owed.

No event goes that is not proven published, no id that an input could still be compared with: an input older than the
dedup horizon is parked, not handled, unless its day is kept. The horizon moves before a day goes, and without its day
the database itself would refuse the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

import psycopg
import structlog

from quadrille.db.connection import Tx
from quadrille.db.schema import AHEAD_DAYS, INBOX_DAYS
from quadrille.ids import milliseconds

DAY = timedelta(days=1)
MARGIN = timedelta(hours=1)  # whoever decides by a clock that is late still finds it
AT_ONCE = 1000
TOLD = "SELECT inbox_floor(%b), array(SELECT inbox_kept(%b))"
MAKE_DAYS = "SELECT ensure_partitions(%b, %b)"
MAKE_TODAY = f"""{MAKE_DAYS}
 WHERE to_regclass('outbox_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')) IS NULL"""
# Nobody is waited for, and nobody waits for long: a key that is used anew at this moment stays.
FORGET_KEYS = """
DELETE FROM idempotency_key WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM idempotency_key WHERE at < least(now() - %b::interval, lived_since(%b))
   ORDER BY at LIMIT %b FOR UPDATE SKIP LOCKED))"""
# A cause older than every day of the inbox is handled no more: what was said of it before a restore need not be known.
FORGET_SAID = "DELETE FROM said_before WHERE id < id_floor(first_day('inbox'))"
log = structlog.get_logger()


class DedupHorizon(Protocol):
    """Whoever compares ids knows from which moment on the inbox tells them, and which days before it are kept."""

    horizon_ms: int
    kept: frozenset[date]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long days are kept, and the answers of idempotency keys.

    ``forget`` lets go some of what a service keeps as long as the window, and returns how many, 0 when no more are.
    """

    window: timedelta = INBOX_DAYS * DAY
    answers: timedelta = 2 * DAY
    forget: Callable[[Tx, timedelta], int] | None = None

    @property
    def days(self) -> int:
        """The window in whole days."""
        return -(-self.window // DAY)

    def prepare(self, tx: Tx, reader: DedupHorizon) -> None:
        """Make the coming days' places, and let a reader know which days' ids can be told."""
        make_days(tx)
        self.inform(tx, reader)

    def inform(self, tx: Tx, reader: DedupHorizon) -> None:
        """Let a reader know the floor, and the days below it that are kept."""
        horizon, kept = tx.execute(TOLD, [self.days, self.days]).fetchone() or (datetime.now(UTC).date(), [])
        reader.kept = frozenset(kept)  # before the floor, which moves up: whoever reads meanwhile knows enough
        reader.horizon_ms = _milliseconds(horizon)

    def horizon(self, tx: Tx) -> int:
        """Return the floor in Unix milliseconds: an id from before it is known only if its day is one of those kept."""
        row = tx.execute("SELECT inbox_floor(%b)", [self.days]).fetchone()
        return _milliseconds(row[0] if row else datetime.now(UTC).date())

    def clear(self, tx: Tx) -> None:
        """Let go what is past its time; a table that is busy is left for the next time rather than waited for."""
        try:
            while row := tx.execute("SELECT drop_old_day(%b) AS day", [self.days]).fetchone():
                if row[0] is None:
                    break
                log.info("old day dropped", reason=row[0])
        except psycopg.errors.LockNotAvailable:
            log.info("old day is left for the next time: its table is busy")
        if rows := _all(lambda: forget_keys(tx, self.answers)):
            log.info("old idempotency keys forgotten", rows=rows)
        tx.execute(FORGET_SAID)
        forget = self.forget or _nothing
        if rows := _all(lambda: forget(tx, self.window)):
            log.info("old rows of the service forgotten", rows=rows)


def make_days(tx: Tx) -> None:
    """Make a place for each day that has none, from the last one there is to the coming ones.

    Every role that writes does it when the database says that there is none: whoever keeps days ahead may be away.
    """
    tx.execute(MAKE_DAYS, [INBOX_DAYS, AHEAD_DAYS])


def make_today(tx: Tx) -> None:
    """Make the days' places if today has none: where it is not there an event is about to be written."""
    tx.execute(MAKE_TODAY, [INBOX_DAYS, AHEAD_DAYS])


def forget_keys(tx: Tx, kept: timedelta) -> int:
    """Forget some idempotency keys older than they are kept; return how many, 0 when no more are.

    As many days must have been lived since: a clock that jumps ahead forgets no key that is still to be honoured.
    """
    return tx.execute(FORGET_KEYS, [kept + MARGIN, -(-kept // DAY) + 1, AT_ONCE]).rowcount


def _nothing(_: Tx, __: timedelta) -> int:
    return 0


def _all(forget: Callable[[], int]) -> int:
    """Forget until nothing is left to be forgotten, and return how much it was."""
    rows = 0
    while some := forget():
        rows += some
    return rows


def _milliseconds(day: date) -> int:
    return milliseconds(datetime.combine(day, time(), UTC))
