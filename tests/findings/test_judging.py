"""What the reconciler judges of an order that rests, and that it never judges one that moves."""

from __future__ import annotations

from typing import Any

import pytest

from console.findings.domain import Books, Kind, Repair, judge
from quadrille_why.case import SERVICES

Rows = dict[str, Any]
ORDER, TEN = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", 1000


def order(status: str, inventory: str, payment: str) -> Rows:
    """Order's row."""
    states = {"inventory": inventory, "payment": payment}
    return {"status": status, "amount_minor": TEN, "currency": "EUR", "states": states}


def paid(state: str, captured: int = TEN, returned: int = 0, currency: str = "EUR") -> Rows:
    """Payment's book."""
    currencies = [currency] if captured else []
    return {"state": state, "captured_minor": captured, "returned_minor": returned, "currencies": currencies}


AGREED: dict[str, Rows] = {
    "placed": {"order": order("PENDING", "NONE", "NONE")},
    "confirmed": {
        "order": order("CONFIRMED", "COMMITTED", "CHARGED"), "inventory": {"state": "COMMITTED"},
        "payment": paid("CHARGED"), "notification": {"confirmed": "SENT"},
    },
    "returned": {
        "order": order("CANCELLED", "RELEASED", "REFUNDED"), "inventory": {"state": "RELEASED"},
        "payment": paid("REFUNDED", returned=TEN), "notification": {"confirmed": "SENT", "cancelled": "SENT"},
    },
    "declined": {
        "order": order("CANCELLED", "RELEASED", "DECLINED"), "inventory": {"state": "RELEASED"},
        "payment": paid("DECLINED", 0), "notification": {"cancelled": "FAILED"},
    },
    "short": {
        "order": order("CANCELLED", "REJECTED", "SKIPPED"), "inventory": {"state": "REJECTED"},
        "payment": paid("SKIPPED", 0), "notification": {"cancelled": "SUPPRESSED"},
    },
    "written off": {
        "order": order("CANCELLED", "RELEASED", "RESOLVED"), "inventory": {"state": "RELEASED"},
        "payment": paid("RESOLVED"), "notification": {"cancelled": "SENT"},
    },
    "frozen": {
        "order": order("COMPENSATION_FAILED", "RELEASED", "REFUND_FAILED"), "inventory": {"state": "RELEASED"},
        "payment": paid("REFUND_FAILED"),
    },
    "cancelled before it was heard of": {"inventory": {"state": "RELEASED"}, "payment": paid("SKIPPED", 0)},
}  # fmt: skip
CANCELLED_TOO = Repair("payment", "order.cancellation_requested")
SPOILT: list[tuple[str, Rows, Kind, Repair | None]] = [
    ("confirmed", {"order": None, "payment": None, "notification": None}, Kind.HOLD_WITHOUT_ORDER, None),
    ("confirmed", {"order": None, "inventory": None, "notification": None}, Kind.CHARGE_WITHOUT_ORDER, None),
    ("confirmed", {"order": None, "inventory": None, "payment": None}, Kind.NOTICE_WITHOUT_ORDER, None),
    ("confirmed", {"inventory": None}, Kind.CONFIRMED_WITHOUT_HOLD, None),
    ("confirmed", {"inventory": {"state": "RESERVED"}}, Kind.CONFIRMED_NOT_COMMITTED,
     Repair("inventory", "order.confirmed")),
    ("confirmed", {"payment": None}, Kind.CONFIRMED_WITHOUT_CHARGE, None),
    ("confirmed", {"payment": paid("CHARGED", TEN + 1)}, Kind.CHARGE_DIFFERS, None),
    ("confirmed", {"payment": paid("CHARGED", currency="USD")}, Kind.CHARGE_DIFFERS, None),
    ("returned", {"inventory": {"state": "COMMITTED"}}, Kind.CANCELLED_NOT_RELEASED,
     Repair("inventory", "order.cancellation_requested")),
    ("returned", {"payment": paid("CHARGED")}, Kind.CANCELLED_NOT_REFUNDED, CANCELLED_TOO),
    ("returned", {"payment": paid("REFUNDED")}, Kind.CANCELLED_NOT_REFUNDED, None),
    ("confirmed", {"notification": None}, Kind.ENDED_WITHOUT_NOTICE, Repair("notification", "order.confirmed")),
    ("declined", {"notification": {"cancelled": "NONE"}}, Kind.ENDED_WITHOUT_NOTICE,
     Repair("notification", "order.cancelled")),
    ("placed", {"inventory": {"state": "RESERVED"}}, Kind.ORDER_BEHIND, Repair("order", "stock.reserved")),
    ("confirmed", {"order": order("CONFIRMED", "COMMITTED", "NONE")}, Kind.ORDER_BEHIND,
     Repair("order", "payment.charged")),
    ("returned", {"order": order("CANCELLED", "REJECTED", "REFUNDED")}, Kind.ORDER_DISAGREES, None),
]  # fmt: skip


def books(rows: Rows, *, settled: bool = True, open_: tuple[str, ...] = ()) -> Books:
    """What every service keeps, as digests tell it."""
    told = {name: row and {"settled": settled, "row": row, "open": [*open_]} for name, row in rows.items()}
    return Books(ORDER, told)


@pytest.mark.parametrize("name", AGREED)
def test_services_that_agree_are_no_finding(name: str) -> None:
    """Wherever an order stands, and however it ended, nothing is found where all keep the same."""
    assert judge(books(AGREED[name])) == []


@pytest.mark.parametrize(("name", "spoilt", "kind", "repair"), SPOILT, ids=[str(one[2]) for one in SPOILT])
def test_each_difference_has_its_name_and_its_repair(
    name: str, spoilt: Rows, kind: Kind, repair: Repair | None
) -> None:
    """One thing that does not agree is one finding, mended by an event that was said, or by nobody but a person."""
    [found] = judge(books(AGREED[name] | spoilt))

    assert (found.kind, found.repair) == (kind, repair)


def test_every_kind_is_judged() -> None:
    """No kind is declared that nothing comes to."""
    assert {kind for _, _, kind, _ in SPOILT} == set(Kind)


@pytest.mark.parametrize("service", SERVICES)
def test_an_order_moves_while_anything_of_it_is_young_or_open(service: str) -> None:
    """One row above the watermark, one intent or parked input, in whichever service, and the order is not judged."""
    rest = AGREED["confirmed"]
    assert books(rest).moving == ()

    for told in ({"settled": False, "open": []}, {"settled": True, "open": ["charge_card"]}):
        moving = Books(ORDER, {**books(rest).told, service: {**told, "row": rest[service]}}).moving
        assert len(moving) == 1
        assert moving[0].startswith(service)
