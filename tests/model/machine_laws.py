"""What must hold in a house after every step, and when all has come to rest: laws and invariants of law.md."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from payment.events import ChargeCard
from quadrille.messages import key_of
from tests.model.laws import ASKED, CANCELLED, CONFIRMED, must
from tests.model.machine_house import House
from tests.model.states import FACTS_OF_MAIL, SAYS

CALLED_AFTER = [timedelta(minutes=minutes) for minutes in (5, 10, 30)]
UNDONE = ("REJECTED", "RELEASED", "RESOLVED")


def check(house: House) -> None:
    """Check every order against its hold, its payment, the processor and what was said."""
    for name in house.orders:
        told = house.told[name]
        _check_money(house, name, told)
        _check_order(house, name, told)
        _check_called(house, name)


def check_rest(house: House) -> None:
    """Check that all has ended: nothing open anywhere, one end for every order, one mail for every end, one truth."""
    for room in house.rooms.values():
        left = ", ".join(row.message.type for row in room.kept.tasks.values())
        must(not left, "7", f"{room.name} still has to do: {left}")
        must(not room.kept.lanes, "13", f"{room.name} has facts parked for ever")
    for name in house.orders:
        told, status, hold = house.told[name], house.row(name).status, house.hold(name)
        must(status in ("CONFIRMED", "CANCELLED"), "3", f"{name} never ended: {status}")
        wanted = ("COMMITTED",) if status == "CONFIRMED" else UNDONE
        must(hold is not None and hold.state in wanted, "7", f"{status}, and its hold is {hold and hold.state}")
        _check_books(house, name, told)
        for fact, kind in ((CONFIRMED, "confirmed"), (CANCELLED, "cancelled")):
            _check_mail(house, name, kind, due=fact in told)


def _check_money(house: House, name: str, told: frozenset[str]) -> None:
    """Invariants 4 and 5, laws L7 and L10: the processor did what was intended, and what was said of it is so."""
    captured, refunded = house.bank.ledger["CAPTURE", name], house.bank.ledger["REFUND", name]
    must(captured <= 1, "4", f"{captured} captures of one order")
    must(refunded <= captured, "4", "more money went back than was taken")
    must(not captured or {"charge_card", "stock.reserved"} <= told, "5", "charged, and nobody was to be charged")
    must(not refunded or "refund_card" in told, "L10", "money went back that nobody had promised")
    must("payment.charged" not in told or captured == 1, "L7", "said to be charged, and was not")
    must("payment.declined" not in told or not captured, "L7", "said to be declined, and was charged")
    must("payment.refunded" not in told or refunded == 1, "4", "said to be refunded, and was not")


def _check_order(house: House, name: str, told: frozenset[str]) -> None:
    row, hold, paid = house.row(name), house.hold(name), house.paid(name)
    captured, refunded = house.bank.ledger["CAPTURE", name], house.bank.ledger["REFUND", name]
    must((row.reason is not None) == (ASKED in told), "L2", f"a {row.status} order and its request to cancel")
    must((row.status == "CANCELLED") == (CANCELLED in told), "L3", f"a {row.status} order and its end")
    must(row.attention != "CONFLICT", "3", "an order is marked CONFLICT")
    must(row.reason != "DEADLINE" or house.now >= row.deadline_at, "L1", "expired before its deadline")
    if row.status == "CONFIRMED":
        must(captured == 1 and not refunded, "4", "CONFIRMED, and the money is not ours")
        must(hold.state in ("RESERVED", "COMMITTED"), "L1", f"CONFIRMED, and its hold is {hold.state}")
    if row.status == "CANCELLED":
        must(hold.state in UNDONE, "7", f"CANCELLED, and its hold is {hold.state}")
        must(captured == refunded or "payment.resolved" in told, "4", "CANCELLED, and the money is still here")
        must(not _may_charge(house, name), "7", "CANCELLED, and a charge may still reach the processor")
    for one in (paid, hold):
        emitted = SAYS.get(one.state) if one else None
        must(emitted is None or emitted in told, "L3", f"{emitted} is so, and nobody was told")


def _check_called(house: House, name: str) -> None:
    """Section 7: for what waits too long somebody is called, no sooner and no louder, one look later at most."""
    row, tasks = house.row(name), house.rooms["order"].kept.tasks.values()
    waited, looks = house.now - row.since, [one.due for one in tasks if key_of(one.message) == name]
    must(not row.debts or looks != [], "clock", "nobody will look after an order that waits")
    loudest = sum(waited >= limit for limit in CALLED_AFTER)
    least = sum(waited >= limit + CALLED_AFTER[-1] for limit in CALLED_AFTER) if row.debts else 0
    must(row.detail.stuck <= loudest, "clock", f"called for at level {row.detail.stuck} after {waited}")
    looked = min(looks, default=house.now) <= house.now or row.detail.stuck >= least
    must(looked, "clock", f"called for at level {row.detail.stuck} after {waited}")


def _check_books(house: House, name: str, told: frozenset[str]) -> None:
    """Invariant 4 at the end: our books are the processor's, but for a refund that landed after a person ended it."""
    kinds = [entry.kind for entry in house.rooms["payment"].work.entries if entry.order_id == name]
    captured, refunded = house.bank.ledger["CAPTURE", name], house.bank.ledger["REFUND", name]
    must(("CAPTURE" in kinds) == (captured == 1), "4", "the ledger and the processor differ on the charge")
    back = any(kind != "CAPTURE" for kind in kinds)
    must(back == (refunded == 1) or "payment.resolved" in told, "4", "money went back, and the ledger does not know")


def _check_mail(house: House, name: str, kind: str, *, due: bool) -> None:
    """Invariant 15: a mail that is due has one ending, and one that is said to be sent was taken."""
    told = house.told[name]
    endings = [ending for ending in FACTS_OF_MAIL if f"{ending} of {kind}" in told]
    must(len(endings) == due, "15", f"the mail {kind} is {'' if due else 'not '}due, and ended: {endings}")
    taken = house.post.taken[f"{kind}.{name}"]
    must("notification.sent" not in endings or taken > 0, "15", f"the mail {kind} is said to be sent, and was not")


def _may_charge(house: House, name: str) -> bool:
    """Tell whether a charge of an order may still be made: under a key that has no answer yet."""
    rows: list[Any] = [row.message for row in house.rooms["payment"].kept.tasks.values()]
    asked = any(isinstance(message, ChargeCard) and message.order_id == name for message in rows)
    return asked and f"charge:{name}" not in house.bank.stored
