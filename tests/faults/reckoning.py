"""What must be true when all is over: every order at its end, stock and money right, every event on its topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from quadrille_cli.services import SERVICES
from tests.conftest import SIGNS, Record, Shop
from tests.faults.customers import SCENARIOS

ORDERS = "SELECT order_id::text, concat_ws(' ', status, reason), amount_minor, states->>'inventory' FROM orders"
COUNT = "SELECT count(*) FROM orders"
OUTBOX = """
SELECT id::text, aggregateid, sequence FROM outbox
 WHERE aggregatetype = %s AND aggregateid NOT LIKE 'canary-%%'"""
STOCK = "SELECT available, held, committed FROM level WHERE sku = 'SKU-TEA'"
PARKED = "SELECT type, line, error_class, error FROM parked WHERE state IN ('OPEN', 'DEAD')"
ENDS = ("CONFIRMED", "CANCELLED", "COMPENSATION_FAILED")


def waiting(shop: Shop, kinds: Mapping[str, str]) -> list[str]:
    """Return the orders of ours that have not come to an end yet, with where they stand."""
    left = []
    for order, end, _, stock in shop.sql("order", f"{ORDERS} WHERE order_id = ANY(%s::uuid[])", [*kinds]):
        undone = end.partition(" ")[0] in ENDS[1:]
        decided = undone or (end == "CONFIRMED" and stock == "COMMITTED" and not SCENARIOS[kinds[order]].cancel)
        if not decided:
            left.append(f"{order} ({kinds[order]}) {end} {stock}")
    return left


class Books:
    """What there was before the first fault, and what there must be after the last."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._orders = int(shop.sql("order", COUNT)[0][0])
        self._stock = shop.sql("inventory", STOCK)[0]
        self._parked = {service: set(shop.sql(service, PARKED)) for service in SERVICES}

    def wrong(self, kinds: Mapping[str, str], keys: int) -> list[str]:
        """Hold what there is against what was ordered: ``kinds`` of orders, under so many idempotency keys."""
        found = self._shop.sql("order", f"{ORDERS} WHERE order_id = ANY(%s::uuid[])", [*kinds])
        ends = {order: (end, amount) for order, end, amount, _ in found}
        return [
            *(f"order {order} was accepted and is not there" for order in kinds.keys() - ends.keys()),
            *_ends(ends, kinds),
            *self._count(keys),
            *self._money(ends),
            *self._goods(Counter(end for end, _ in ends.values())["CONFIRMED"]),
            *self._facts(),
            *self._aside(),
        ]

    def _count(self, keys: int) -> Iterator[str]:
        if (more := int(self._shop.sql("order", COUNT)[0][0]) - self._orders) != keys:
            yield f"{keys} idempotency keys made {more} orders"

    def _money(self, ends: Mapping[str, tuple[str, int]]) -> Iterator[str]:
        kept: Counter[str] = Counter()
        for entry in self._shop.ledger():
            kept[entry["order_id"]] += SIGNS[entry["kind"]] * entry["amount_minor"]
        for order, (end, amount) in ends.items():
            due = amount if end.startswith(("CONFIRMED", "COMPENSATION_FAILED")) else 0
            if kept[order] != due:
                yield f"order {order}, {end}: the processor keeps {kept[order]} instead of {due}"

    def _goods(self, sold: int) -> Iterator[str]:
        available, held, committed = self._stock
        wanted = (available - sold, held, committed + sold)
        if (there := self._shop.sql("inventory", STOCK)[0]) != wanted:
            yield f"SKU-TEA (available, held, committed) is {there} instead of {wanted}"

    def _facts(self) -> Iterator[str]:
        """Hold every outbox against its topic: each row is there, first copies in sequence."""
        told = self._shop.records()
        for service in SERVICES:
            topic = f"{service}.events"
            rows = set(self._shop.sql(service, OUTBOX, topic))
            records = [record for record in told if record.topic == topic]
            yield from _astray(topic, {row[0] for row in rows}, records)

    def _aside(self) -> Iterator[str]:
        for service in SERVICES:
            for row in set(self._shop.sql(service, PARKED)) - self._parked[service]:
                yield f"{service} has parked {row}"


def _ends(ends: Mapping[str, tuple[str, int]], kinds: Mapping[str, str]) -> Iterator[str]:
    for order, (end, _) in ends.items():
        if end not in SCENARIOS[kinds[order]].ends:
            yield f"order {order} ({kinds[order]}) ended {end}"


def _astray(topic: str, ids: Collection[Any], records: Collection[Record]) -> Iterator[str]:
    """Yield what a topic lacks, and the keys whose first copies are out of sequence."""
    first = {record.header("ce_id"): record for record in reversed([*records])}
    if missing := set(ids) - first.keys():
        yield f"{topic} lacks {len(missing)} of {len(ids)} rows of the outbox, among them {min(missing)}"
    last: Counter[str] = Counter()
    for record in reversed(first.values()):
        number = int(record.header("ce_sequence"))
        if number != last[record.key] + 1:
            yield f"{topic}: {record.key} has {number} after {last[record.key]}"
        last[record.key] = number
