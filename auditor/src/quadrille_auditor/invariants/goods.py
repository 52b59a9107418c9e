"""Goods: every piece is in one place, and nothing is kept for an order that is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from quadrille_auditor.evidence import INTENTS, Evidence
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

KEPT = ("COMMITTED", "RELEASE_FAILED")
GIVEN_BACK = ("REJECTED", "RELEASED", "RESOLVED")
UNPAID = ("DECLINED", "SKIPPED", "REFUNDED", "RESOLVED")


@invariant(
    6, "stock", "Per SKU: received = available + held + committed; held = sum of open holds; available ≥ 0.",
    reads="inventory's levels and holds, of one snapshot",
)  # fmt: skip
def stock(e: Evidence) -> Verdict:
    """Add up the holds of every SKU, and hold them against its level."""
    held, sold, resolved = Counter[str](), Counter[str](), Counter[str]()
    for hold in e.holds.values():
        pieces = held if hold.state == "RESERVED" else sold if hold.state in KEPT else resolved
        for sku, quantity in hold.lines if hold.state not in ("RELEASED", "REJECTED") else ():
            pieces[sku] += quantity
    findings = []
    for level in e.levels:
        sku, parts = level.sku, level.available + level.held + level.committed
        if level.received != parts:
            findings.append(Finding(6, "", f"pieces of {sku} came or went", f"{level.received}", f"{parts}"))
        if level.available < 0:
            findings.append(Finding(6, "", f"more of {sku} is promised than there is", "0", f"{level.available}"))
        if level.held != held[sku]:
            findings.append(Finding(6, "", f"held of {sku} is not its open holds", f"{held[sku]}", f"{level.held}"))
        if not sold[sku] <= level.committed <= sold[sku] + resolved[sku]:
            expected = f"{sold[sku]}" + (f" to {sold[sku] + resolved[sku]}" if resolved[sku] else "")
            findings.append(Finding(6, "", f"committed of {sku} is not what was sold", expected, f"{level.committed}"))
    known = {level.sku for level in e.levels}
    findings += [
        Finding(6, "", f"{sku} is held and has no level", "a level", "none") for sku in held.keys() - known if held[sku]
    ]
    return judged(e.levels, findings)


@invariant(
    7, "nothing-left-open", "No finished order with an open hold or intent.",
    reads="order's orders, inventory's holds, payment's payments, every task",
)  # fmt: skip
def nothing_left_open(e: Evidence) -> Verdict:
    """Look at what is left of every order that is over: goods, money, intents."""
    findings: list[Finding] = []
    over = [order for order in e.orders.values() if order.status == "CANCELLED"]
    for order in over:
        findings += _left(e, order.id)
    sold = [order for order in e.resting.values() if order.status == "CONFIRMED"]
    for order in sold:
        hold = e.holds.get(order.id)
        if hold is None or hold.state != "COMMITTED":
            says = "the goods of a confirmed order are not committed"
            findings.append(Finding(7, order.id, says, "COMMITTED", hold.state if hold else "no hold"))
    return judged(len(over) + len(sold), findings)


def _left(e: Evidence, id_: str) -> Iterator[Finding]:
    """Yield what is left of a cancelled order: all that order waited for was done before it said so."""
    hold, payment = e.holds.get(id_), e.payments.get(id_)
    if hold is None or hold.state not in GIVEN_BACK:
        says = "a cancelled order still holds goods"
        yield Finding(7, id_, says, " or ".join(GIVEN_BACK), hold.state if hold else "no hold")
    if payment is None or payment.state not in UNPAID:
        says = "the money of a cancelled order is not settled"
        yield Finding(7, id_, says, " or ".join(UNPAID), payment.state if payment else "no payment")
    for service in ("payment", "inventory"):
        for task in e.databases[service].tasks:
            if task.key == id_ and task.type in INTENTS and task.type != "inquire_charge":
                yield Finding(7, id_, "a cancelled order has an open intent", "none", task.type, (task.id,))
