"""Stories of orders as records: what the four services would have published, at the times they would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from quadrille import AnyRecord
from quadrille.ids import event_id, milliseconds, uuid7
from quadrille.processing.envelope import Envelope

SCHEMA = 7


class Teller:
    """Tells stories: each record gets the next offset of its topic and the next number of its order there."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)
        self._offsets: dict[str, int] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def order(self, back: timedelta) -> str:
        """Return the id of an order placed so long ago."""
        return str(uuid7(milliseconds(self.now - back)))

    def says(  # noqa: PLR0913 - one of each thing a record has
        self, order: str, named: str, back: timedelta, body: Mapping[str, Any] | None = None,
        cause: UUID | None = None, *, topic: str = "", trace: str = "",
    ) -> AnyRecord:  # fmt: skip
        """Return the record of an event, said so long ago."""
        source = {"stock": "inventory"}.get(named.partition(".")[0], named.partition(".")[0])
        if topic == "ops.events":
            source = str((body or {}).get("service", "order"))
        topic = topic or f"{source}.events"
        number = self._numbers[topic, order] = self._numbers.get((topic, order), 0) + 1
        offset = self._offsets[topic] = self._offsets.get(topic, -1) + 1
        at = self.now - back
        root = uuid7(milliseconds(at))
        identity = event_id(source, root, f"{named}{offset}", 0)
        headers = (("ce_id", str(identity).encode()), ("ce_type", named.encode()))
        record = AnyRecord(
            order, identity, topic, 5, offset, named, f"quadrille/{source}", number, cause or root,
            trace or UUID(order).hex, SCHEMA, {"order_id": order, **(body or {})}, None, headers, b"\0\0\0\0\7body",
        )  # fmt: skip
        object.__setattr__(record, "_at", at)
        return record

    def unreadable(self, order: str, raw: bytes, fault: str, back: timedelta) -> AnyRecord:
        """Return a record that could not be read."""
        offset = self._offsets["payment.events"] = self._offsets.get("payment.events", -1) + 1
        at = self.now - back
        record = AnyRecord(
            order, event_id("x", uuid7(milliseconds(at)), "x", offset), "payment.events", 5, offset, "", "", None, None,
            "", None, None, fault, (("x-why", b"\xff\0<b>"),), raw,
        )  # fmt: skip
        object.__setattr__(record, "_at", at)
        return record

    def placed(self, order: str, back: timedelta, customer: str = "cust_demo", amount: int = 2500) -> AnyRecord:
        """Return the placing of an order."""
        lines = [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": amount // 2}]
        body = {"customer_id": customer, "lines": lines, "amount_minor": amount, "currency": "EUR",
                "payment_token": "tok_ok"}  # fmt: skip
        return self.says(order, "order.placed", back, body)

    def confirmed(self, back: timedelta, customer: str = "cust_demo") -> Iterator[AnyRecord]:
        """Tell an order that is confirmed after 300 ms."""
        order = self.order(back)
        ms = timedelta(milliseconds=1)
        placed = self.placed(order, back, customer)
        yield placed
        reserved = self.says(order, "stock.reserved", back - 60 * ms, {"lines": []}, placed.id)
        yield reserved
        charged = self.says(order, "payment.charged", back - 220 * ms, {"amount_minor": 2500, "currency": "EUR"})
        yield charged
        confirmed = self.says(order, "order.confirmed", back - 300 * ms, {"customer_id": customer}, charged.id)
        yield confirmed
        yield self.says(order, "stock.committed", back - 340 * ms, {}, confirmed.id)
        yield self.says(order, "notification.sent", back - 420 * ms, {"kind": "confirmed", "channel": "email"})

    def out_of_stock(self, back: timedelta) -> Iterator[AnyRecord]:
        """Tell an order that is cancelled after 180 ms: nothing is there."""
        order, ms = self.order(back), timedelta(milliseconds=1)
        placed = self.placed(order, back)
        yield placed
        rejected = self.says(
            order, "stock.rejected", back - 40 * ms,
            {"shortages": [{"sku": "SKU-NONE", "asked": 1, "available": 0}]}, placed.id,
        )  # fmt: skip
        yield rejected
        asked = self.says(
            order, "order.cancellation_requested", back - 80 * ms, {"reason": "OUT_OF_STOCK"}, rejected.id
        )
        yield asked
        yield self.says(order, "payment.skipped", back - 120 * ms, {"reason": "OUT_OF_STOCK"}, asked.id)
        yield self.says(order, "order.cancelled", back - 180 * ms, {"reason": "OUT_OF_STOCK"}, asked.id)
        yield self.says(order, "notification.sent", back - 260 * ms, {"kind": "cancelled", "channel": "email"})

    def undo_failed(self, back: timedelta) -> Iterator[AnyRecord]:
        """Tell an order whose refund is refused: it waits for a person."""
        *first, mail = self.confirmed(back)
        yield from (*first, mail)
        order, after = first[0].key, back - timedelta(seconds=4)
        ms = timedelta(milliseconds=1)
        asked = self.says(order, "order.cancellation_requested", after, {"reason": "CUSTOMER"})
        yield asked
        yield self.says(order, "stock.released", after - 50 * ms, {"had_hold": True, "returned": True}, asked.id)
        failed = self.says(
            order, "payment.refund_failed", after - 90 * ms,
            {"error_class": "BUSINESS", "code": "card_closed", "attempts": 1}, asked.id,
        )  # fmt: skip
        yield failed
        body = {"participant": "payment", "error_class": "BUSINESS", "attempts": 1, "error": "card_closed"}
        yield self.says(order, "order.compensation_failed", after - 140 * ms, body, failed.id)

    def parked(self, back: timedelta) -> Iterator[AnyRecord]:
        """Tell an order whose charge order cannot hear, for a record that cannot be read lies before it."""
        order, ms = self.order(back), timedelta(milliseconds=1)
        placed = self.placed(order, back, amount=9900)
        yield placed
        yield self.says(order, "stock.reserved", back - 50 * ms, {}, placed.id)
        poison = self.unreadable(order, b"poison!", "header ce_id is missing", back - 100 * ms)
        yield poison
        yield self.says(order, "payment.charged", back - 200 * ms, {"amount_minor": 9900, "currency": "EUR"})
        body = {"service": "order", "event_id": str(poison.id), "error_class": "UNDECODABLE",
                "error": "header ce_id is missing", "behind": 1}  # fmt: skip
        yield self.says(order, "input.parked", back - 250 * ms, body, poison.id, topic="ops.events")
        yield self.says(order, "input.dead", back - 300 * ms, body, poison.id, topic="ops.events")

    def waiting(self, back: timedelta) -> Iterator[AnyRecord]:
        """Tell an order whose card is being charged."""
        order = self.order(back)
        placed = self.placed(order, back, "cust_slow")
        yield placed
        yield self.says(order, "stock.reserved", back - timedelta(milliseconds=70), {}, placed.id)


def inputs(*records: AnyRecord) -> list[Envelope]:
    """Return the inputs of records, each with its own id and time."""
    return [Envelope(one.id, one.key, one, one.at, AnyRecord.type) for one in records]


def a_day(teller: Teller) -> list[AnyRecord]:
    """Tell what a shop looks like that has a bit of everything."""
    minutes = [timedelta(minutes=n, seconds=7 * n) for n in range(14)]
    told = [
        record
        for n, back in enumerate(minutes)
        for record in teller.confirmed(back + timedelta(seconds=5), f"cust_{n}")
    ]
    told += [record for back in minutes[::4] for record in teller.out_of_stock(back + timedelta(seconds=20))]
    told += teller.undo_failed(timedelta(minutes=6))
    told += teller.parked(timedelta(minutes=3))
    told += teller.waiting(timedelta(seconds=4))
    return told
