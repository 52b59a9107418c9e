"""The rules of reconciliation: what the services' digests of one order must agree on, and what mends it if not.

Pure. An order is judged only when it rests: in every service all its rows are older than the watermark, and nothing is
open or parked for it. Then whatever was said of it has been handled by all who hear it, and a difference is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from quadrille_why.case import SERVICES

Row: TypeAlias = Mapping[str, Any]


class Kind(StrEnum):
    """What may be found."""

    HOLD_WITHOUT_ORDER = "hold-without-order"
    CHARGE_WITHOUT_ORDER = "charge-without-order"
    NOTICE_WITHOUT_ORDER = "notice-without-order"
    CONFIRMED_WITHOUT_HOLD = "confirmed-without-hold"
    CONFIRMED_NOT_COMMITTED = "confirmed-not-committed"
    CONFIRMED_WITHOUT_CHARGE = "confirmed-without-charge"
    CHARGE_DIFFERS = "charge-differs"
    CANCELLED_NOT_RELEASED = "cancelled-not-released"
    CANCELLED_NOT_REFUNDED = "cancelled-not-refunded"
    ENDED_WITHOUT_NOTICE = "ended-without-notice"
    ORDER_BEHIND = "order-behind"
    ORDER_DISAGREES = "order-disagrees"


@dataclass(frozen=True, slots=True)
class Repair:
    """What mends it: a service hears again an event that was said of the order."""

    service: str
    event: str


class Discrepancy(NamedTuple):
    """One thing that does not agree, in words for people; without ``repair`` a person has to decide."""

    kind: Kind
    expected: str
    found: str
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class Books:
    """What each service keeps of one order, as its digest told it; None where it knows nothing of it."""

    order_id: str
    told: Mapping[str, Row | None] = field(default_factory=dict)

    @property
    def moving(self) -> tuple[str, ...]:
        """What keeps it from being judged: rows younger than the watermark, things open; empty if it rests."""
        found = []
        for service, one in self.told.items():
            if one is None:
                continue
            found += [] if one["settled"] else [f"{service} wrote of it after the watermark"]
            found += [f"{service} has {what} open" for what in one["open"]]
        return tuple(found)

    def row(self, service: str) -> Row | None:
        """Return what a service keeps."""
        one = self.told.get(service)
        return one["row"] if one else None

    def state(self, service: str) -> str:
        """Return where a participant stands by its own book."""
        row = self.row(service)
        return str(row["state"]) if row else "NONE"

    @property
    def kept_minor(self) -> int:
        """What payment's ledger has taken and not given back."""
        row = self.row("payment")
        return int(row["captured_minor"]) - int(row["returned_minor"]) if row else 0

    @property
    def shown(self) -> list[str]:
        """Each service's book in a line."""
        return [
            f"{service}: {_shown(row)}" if (row := self.row(service)) else f"{service}: nothing" for service in SERVICES
        ]


HELD = frozenset({"RESERVED", "COMMITTED"})
GIVEN_BACK = {"inventory": frozenset({"REJECTED", "RELEASED", "RESOLVED"}),
              "payment": frozenset({"DECLINED", "SKIPPED", "REFUNDED", "RESOLVED"})}  # fmt: skip
TOLD = frozenset({"SENT", "FAILED", "SUPPRESSED"})
# law.md, L11: what a participant may have done, in rank; an order that knows less has not heard, or has forgotten.
RANKS = {
    "inventory": {"NONE": 0, "RESERVED": 1, "COMMITTED": 2, "RELEASE_FAILED": 3} | dict.fromkeys(
        GIVEN_BACK["inventory"], 4),
    "payment": {"NONE": 0, "UNKNOWN": 1, "CHARGED": 2, "REFUND_FAILED": 3} | dict.fromkeys(GIVEN_BACK["payment"], 4),
}  # fmt: skip
SAYS = {
    "inventory": {"RESERVED": "stock.reserved", "COMMITTED": "stock.committed", "REJECTED": "stock.rejected",
                  "RELEASED": "stock.released", "RELEASE_FAILED": "stock.release_failed",
                  "RESOLVED": "stock.resolved"},
    "payment": {"UNKNOWN": "payment.outcome_unknown", "CHARGED": "payment.charged", "DECLINED": "payment.declined",
                "SKIPPED": "payment.skipped", "REFUNDED": "payment.refunded",
                "REFUND_FAILED": "payment.refund_failed", "RESOLVED": "payment.resolved"},
}  # fmt: skip
CANCELLATION = "order.cancellation_requested"


def judge(books: Books) -> list[Discrepancy]:
    """Return what does not agree about an order that rests."""
    order = books.row("order")
    if order is None:
        return list(_without_order(books))
    if order["status"] == "CONFIRMED":
        found = [*_confirmed_goods(books), *_confirmed_money(books, order), *_notice(books, "confirmed")]
    elif order["status"] == "CANCELLED":
        found = [*_cancelled(books), *_notice(books, "cancelled")]
    else:
        found = []
    return found + list(_beliefs(books, order, told=bool(found)))


def _without_order(books: Books) -> Iterator[Discrepancy]:
    if books.state("inventory") in HELD:
        yield Discrepancy(Kind.HOLD_WITHOUT_ORDER, "no hold: order knows no such order", books.state("inventory"))
    if books.kept_minor or books.state("payment") == "CHARGED":
        found = f"{books.state('payment')}, {books.kept_minor} kept"
        yield Discrepancy(Kind.CHARGE_WITHOUT_ORDER, "no money: order knows no such order", found)
    if sent := [kind for kind, state in (books.row("notification") or {}).items() if state in TOLD]:
        yield Discrepancy(Kind.NOTICE_WITHOUT_ORDER, "no notice: order knows no such order", ", ".join(sorted(sent)))


def _confirmed_goods(books: Books) -> Iterator[Discrepancy]:
    state = books.state("inventory")
    if state == "RESERVED":
        mend = Repair("inventory", "order.confirmed")
        yield Discrepancy(Kind.CONFIRMED_NOT_COMMITTED, "COMMITTED at inventory", state, mend)
    elif state != "COMMITTED":
        yield Discrepancy(Kind.CONFIRMED_WITHOUT_HOLD, "COMMITTED at inventory", state)


def _confirmed_money(books: Books, order: Row) -> Iterator[Discrepancy]:
    state, row, wanted = books.state("payment"), books.row("payment"), f"{order['amount_minor']} {order['currency']}"
    if state != "CHARGED" or not row or not row["captured_minor"]:
        found = f"{state}, {books.kept_minor} kept"
        yield Discrepancy(Kind.CONFIRMED_WITHOUT_CHARGE, f"CHARGED at payment, {wanted} kept", found)
    elif books.kept_minor != order["amount_minor"] or row["currencies"] != [order["currency"]]:
        found = f"{books.kept_minor} {' and '.join(row['currencies'])} kept"
        yield Discrepancy(Kind.CHARGE_DIFFERS, f"{wanted} kept", found)


def _cancelled(books: Books) -> Iterator[Discrepancy]:
    goods, money = books.state("inventory"), books.state("payment")
    if goods not in GIVEN_BACK["inventory"]:
        mend = Repair("inventory", CANCELLATION)
        yield Discrepancy(Kind.CANCELLED_NOT_RELEASED, "nothing held or committed at inventory", goods, mend)
    if money not in GIVEN_BACK["payment"] or (books.kept_minor and money != "RESOLVED"):
        mends = Repair("payment", CANCELLATION) if money == "CHARGED" or books.kept_minor == 0 else None
        found = f"{money}, {books.kept_minor} kept"
        yield Discrepancy(Kind.CANCELLED_NOT_REFUNDED, "nothing kept by payment", found, mends)


def _notice(books: Books, kind: str) -> Iterator[Discrepancy]:
    state = str((books.row("notification") or {}).get(kind, "NONE"))
    if state not in TOLD:
        mend = Repair("notification", f"order.{kind}")
        yield Discrepancy(Kind.ENDED_WITHOUT_NOTICE, f"a {kind} notice sent, failed or suppressed", state, mend)


def _beliefs(books: Books, order: Row, *, told: bool) -> Iterator[Discrepancy]:
    """Hold what the order believes of each participant against that one's own book."""
    for service, ranks in RANKS.items():
        believed, so = order["states"].get(service, "NONE"), books.state(service)
        if believed == so or so not in ranks:
            continue
        expected, found = f"order knows {service} as {so}", f"it knows {believed}"
        event = SAYS[service].get(so)
        if ranks[so] > ranks.get(believed, 0) and event:
            yield Discrepancy(Kind.ORDER_BEHIND, expected, found, Repair("order", event))
        elif not told:
            yield Discrepancy(Kind.ORDER_DISAGREES, expected, found)


def _shown(row: Row) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if not isinstance(value, dict | list))
