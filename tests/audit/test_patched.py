"""Patched sources: a bug of one line in a copy of a service or of the chassis, run for real, and found by what it does.

The product holds no switch: a process of the stack is started anew with the patched copy before the installed package,
orders go through it, and the auditor must find the breach by the invariant named beforehand. A patch whose text is not
in the source any more fails here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from quadrille_auditor import Evidence, Finding, gather, judge
from quadrille_cli.auditing import sources
from quadrille_cli.client import Client
from quadrille_cli.stack import Process
from tests.audit.workload import NONE, TEA, Customer
from tests.conftest import Shop

ROOT = Path(__file__).parents[2]


def sold(me: Customer) -> None:
    """An order that goes through."""
    me.shop.ended(me.place(TEA))


def decided(me: Customer) -> None:
    """An order that is confirmed, whatever becomes of its goods."""
    order = me.place(TEA)
    me.shop.until(lambda: me.shop.order(order)["status"] == "CONFIRMED", f"{order} is confirmed")


def empty(me: Customer) -> None:
    """An order of what there is none of; with a bug in it may never end."""
    order = me.place(NONE)
    me.shop.until(lambda: any(r.type == "stock.rejected" for r in me.shop.records(order)), f"{order} is rejected")


def returned(me: Customer) -> None:
    """An order that goes through and is cancelled then."""
    order = me.place(TEA)
    me.shop.ended(order)
    me.shop.cancel(order)
    me.shop.until(lambda: me.shop.order(order)["status"] == "CANCELLED", f"{order} is cancelled")


def cancelled_by_hand(me: Customer) -> None:
    """An order that an operator cancels."""
    order = me.place(TEA)
    me.shop.ended(order)
    with Client(me.shop.stack.url("order-api")) as ops:
        assert ops.ask("POST", f"/ops/orders/{order}/cancel", {"reason": "a scenario"}).status == 202
    me.shop.until(lambda: me.shop.order(order)["status"] == "CANCELLED", f"{order} is cancelled")


@dataclass(frozen=True, slots=True)
class Patch:
    """A bug: in which process, in which file, what stands there and what the bug makes of it."""

    process: str
    file: str
    old: str
    new: str
    happens: Callable[[Customer], None]
    caught_by: int


ORDER, INVENTORY = "services/order/src/order", "services/inventory/src/inventory"
PAYMENT, NOTIFICATION = "services/payment/src/payment", "services/notification/src/notification"
CHASSIS = "chassis/src/quadrille"
PATCHES = {
    "goods are called committed and stay held": Patch(
        "inventory-worker", f"{INVENTORY}/domain.py",
        "            self._move(Sku(line.sku), held=-line.quantity, committed=line.quantity)\n",
        "            self._move(Sku(line.sku))\n",
        sold, 6,
    ),
    "the card is charged on order.placed alone": Patch(
        "payment-worker", f"{PAYMENT}/domain.py",
        "if payment.state is State.NONE and payment.price and payment.permitted:",
        "if payment.state is State.NONE and payment.price:",
        empty, 5,
    ),
    "a charged card is taken for one never charged": Patch(
        "payment-worker", f"{PAYMENT}/handlers.py",
        "            return RefundCard(cancel.order_id, price.amount_minor)\n        case None:",
        "            return PaymentSkipped(cancel.order_id, cancel.reason) if price else None\n        case None:",
        returned, 4,
    ),
    "a minor unit is lost on the way back": Patch(
        "payment-worker", f"{PAYMENT}/handlers.py",
        "            return RefundCard(cancel.order_id, price.amount_minor)\n        case None:",
        "            return RefundCard(cancel.order_id, price.amount_minor - 1)\n        case None:",
        returned, 4,
    ),
    "cancelled before all are settled": Patch(
        "order-worker", f"{ORDER}/domain.py",
        "return all(self.rank(participant) == SETTLED for participant in RANKS)",
        "return any(self.rank(participant) == SETTLED for participant in RANKS)",
        returned, 3,
    ),
    "every mail goes out twice": Patch(
        "notification-worker", f"{NOTIFICATION}/gateway.py",
        "        mailer.deliver(intent.address, compose(intent, time.time()))\n",
        "        mailer.deliver(intent.address, compose(intent, time.time()))\n" * 2,
        sold, 15,
    ),
    "an address is written into the log": Patch(
        "notification-worker", f"{NOTIFICATION}/gateway.py",
        "        mailer.deliver(intent.address, compose(intent, time.time()))\n",
        "        mailer.deliver(intent.address, compose(intent, time.time()))\n"
        "        print('sent to', intent.address, flush=True)\n",
        sold, 19,
    ),
    "the relay leaves out what it does not like": Patch(
        "inventory-relay", f"{CHASSIS}/relay/streaming.py",
        "            if self._open is not None and not (self._held and",
        "            if read.type != b'stock.committed' and self._open is not None and not (self._held and",
        decided, 8,
    ),
    "ids are made by chance": Patch(
        "inventory-worker", f"{CHASSIS}/processing/batch.py",
        "    identity = event_id(service.name, envelope.id, fact.type, ordinal)\n",
        "    identity = event_id(service.name, envelope.id, fact.type + __import__('uuid').uuid4().hex, ordinal)\n",
        sold, 10,
    ),
    "a service begins a trace of its own": Patch(
        "payment-worker", f"{CHASSIS}/processing/batch.py",
        "    sending = envelope.inside.child().traceparent\n",
        "    sending = f\"00-{__import__('uuid').uuid4().hex}-{'12' * 8}-01\"\n",
        sold, 21,
    ),
    "what an operator did is not written down": Patch(
        "order-api", f"{CHASSIS}/ops/actions.py",
        "    return _ActionDone(envelope, outcome, said, after or {}, audit.record(tx, row))\n",
        "    return _ActionDone(envelope, outcome, said, after or {}, int(bool(row)))\n",
        cancelled_by_hand, 20,
    ),
}  # fmt: skip


@contextmanager
def patched(shop: Shop, patch: Patch, folder: Path) -> Iterator[None]:
    """A process that runs the patched copy of its sources for a while."""
    source = ROOT / patch.file
    package = next(up for up in source.parents if up.parent.name == "src")
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "schemas").symlink_to(ROOT / "schemas")  # they are looked for above the package, as in a checkout
    copy = folder / package.name / source.relative_to(package)
    text = copy.read_text("utf-8")
    assert text.count(patch.old) == 1, f"the patch does not apply: {patch.file}"
    copy.write_text(text.replace(patch.old, patch.new), "utf-8")
    folder.chmod(0o755)
    usual = shop.stack.process(patch.process)
    words = [word for word in usual.spec.command()[1:] if word != "-I"]  # isolated it hears no PYTHONPATH
    spec = replace(
        usual.spec,
        command=lambda: [sys.executable, *words],
        env={**usual.spec.env, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"},
    )
    usual.stop()
    other = Process(spec)
    shop.stack.processes[patch.process] = other
    try:
        other.start()
        yield
    finally:
        other.stop()
        shop.stack.processes[patch.process] = usual
        usual.start()


def found(shop: Shop) -> set[Finding]:
    """Everything that is wrong now; a mail that a patched sender left unsent has come by then."""
    return set(judge(gather(sources(shop.stack, logs=shop.stack.logs))).findings)


@pytest.mark.parametrize("bug", PATCHES)
def test_a_bug_in_the_sources_is_caught_by_what_it_does(
    audited: Shop, captured: Evidence, tmp_path: Path, bug: str
) -> None:
    """The bug of one line runs for real, and the invariant named beforehand finds what it has done."""
    del captured  # but read before anything is spoilt
    patch = PATCHES[bug]
    before = found(audited)
    with patched(audited, patch, tmp_path / "patched"):
        patch.happens(Customer(audited))
        new = audited.until(lambda: _new(audited, before, patch), f"{bug}: invariant {patch.caught_by} finds it")
    assert patch.caught_by in {finding.invariant for finding in new}


def _new(shop: Shop, before: set[Finding], patch: Patch) -> set[Finding]:
    new = found(shop) - before
    return new if patch.caught_by in {finding.invariant for finding in new} else set()
