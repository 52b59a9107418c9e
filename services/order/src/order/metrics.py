"""What order counts: sagas started and ended, how long they and their steps took, who is waited for.

Counted after the commit; how long things took is read off an order's own history, which its store remembers from the
saving of its last status until then.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from order import store
from order.domain import FINAL, LEVELS, Entry, Order, Orders, Status
from order.events import OrderCancelled, OrderCompensationFailed, OrderConfirmed, OrderPlaced
from order.settings import OrderSettings
from quadrille import Emitted, Message
from quadrille.app import Counter, Gauge, Histogram, set_all
from quadrille.service import Tx, milliseconds

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600)
STARTED = Counter("quadrille_order_started_total", "Orders placed")
ENDED = Counter("quadrille_order_ended_total", "Orders ended, by status and reason", ["status", "reason"])
FROZEN = Counter("quadrille_order_compensation_failed_total", "Undos announced as failed", ["participant"])
DURATION = Histogram("quadrille_order_duration_seconds", "From placing to the end", ["status"], buckets=SECONDS)
STEP = Histogram(
    "quadrille_order_step_duration_seconds", "From one status to the next, by the event that led there", ["step"],
    buckets=SECONDS,
)  # fmt: skip
COMPENSATION = Histogram(
    "quadrille_order_compensation_duration_seconds", "From the decision to undo until all is undone", ["reason"],
    buckets=SECONDS,
)  # fmt: skip
IN_FLIGHT = Gauge("quadrille_order_in_flight_orders", "Orders that have not ended, by status", ["status"])
OWED = Gauge("quadrille_order_waiting_orders", "Orders that wait for an event, by who owes it", ["owes", "fact"])
OLDEST = Gauge("quadrille_order_waiting_age_seconds", "How long the one that waits longest has", ["owes", "fact"])
STUCK = Gauge(
    "quadrille_order_stuck_orders", "Orders that wait too long, by who owes which event, each at its highest level",
    ["owes", "fact", "level"],
)  # fmt: skip
REMEMBERED = 1_000  # an order that changes after its end is remembered once more, in vain
UNDOING = (Status.CANCELLING, Status.INVENTORY_FAILED, Status.PAYMENT_FAILED)


class RememberingStore:
    """Order's store; it remembers the orders it saved as ended, for a moment: until their end is counted.

    What is remembered of a transaction that was rolled back is overwritten when the order is saved again, or forgotten
    in its turn.
    """

    def __init__(self) -> None:
        self.ended: dict[str, Order] = {}

    def load(self, tx: Tx, messages: Sequence[Message]) -> Orders:
        """Bring the orders the messages may touch."""
        return store.load(tx, messages)

    def save(self, tx: Tx, work: Orders) -> None:
        """Write back what changed."""
        store.save(tx, work)
        for order in work.rows.changed:
            if order.status in FINAL and order.states.inventory != "COMMITTED":  # else confirmed before
                self.ended[order.order_id] = order
        while len(self.ended) > REMEMBERED:
            self.ended.pop(next(iter(self.ended)), None)


STORE = RememberingStore()


def count(said: Emitted) -> None:
    """Count what was said, if a saga begins or ends by it."""
    match said:
        case OrderPlaced():
            STARTED.inc()
        case OrderConfirmed(order_id=order_id):
            _count_end(order_id, Status.CONFIRMED, "")
        case OrderCancelled(order_id=order_id, reason=reason):
            _count_end(order_id, Status.CANCELLED, reason)
        case OrderCompensationFailed(participant=participant):
            FROZEN.labels(participant).inc()
        case _:
            pass


def _count_end(order_id: str, status: Status, reason: str) -> None:
    ENDED.labels(status, reason).inc()
    DURATION.labels(status).observe(_since_placed(order_id))
    if (order := STORE.ended.pop(order_id, None)) is None:
        return
    passed = list(_passed(order.history, status))
    for before, after in pairwise(passed):
        STEP.labels(after.because).observe(_between(before, after))
    if status is Status.CANCELLED and (asked := [entry for entry in passed if entry.status in UNDOING]):
        COMPENSATION.labels(reason).observe(_between(asked[0], passed[-1]))


def _passed(history: Sequence[Entry], status: Status) -> Iterable[Entry]:
    """Return the statuses an order passed on its way to an end: from the start, or from the end it had before."""
    last = max(place for place, entry in enumerate(history) if entry.status is status)
    before = [place for place, entry in enumerate(history[:last]) if entry.status is Status.CONFIRMED]
    begins = before[-1] if before else 0
    return history[begins : last + 1]


def _between(before: Entry, after: Entry) -> float:
    return max(0.0, (after.at - before.at).total_seconds())


def _since_placed(order_id: str) -> float:
    """Return how long ago an order was placed: its id says when."""
    return max(0.0, milliseconds(datetime.now(UTC)) - (UUID(order_id).int >> 80)) / 1000


def look(tx: Tx, settings: OrderSettings) -> None:
    """Count the orders that wait, for whom, and how long."""
    levels = settings.stuck_warn, settings.stuck_page, settings.stuck_escalate
    in_flight: Tally[tuple[str, ...]] = Tally()
    owed: Tally[tuple[str, ...]] = Tally()
    stuck: Tally[tuple[str, ...]] = Tally()
    oldest: dict[tuple[str, ...], float] = {}
    for crowd in store.crowds(tx, levels):
        if crowd.status != Status.CONFIRMED:
            in_flight[crowd.status,] += crowd.orders
        for debt in crowd.states.debts(undone=crowd.undone):
            owed[debt] += crowd.orders
            oldest[debt] = max(oldest.get(debt, 0.0), crowd.oldest)
            if crowd.level:
                stuck[*debt, LEVELS[crowd.level - 1]] += crowd.orders
    for gauge, found in ((IN_FLIGHT, in_flight), (OWED, owed), (OLDEST, oldest), (STUCK, stuck)):
        set_all(gauge, found)
