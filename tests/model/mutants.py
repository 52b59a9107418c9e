"""One-line faults of the rules, each with the search that must find it: a law nobody can break is a law untested."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inventory.events import PaymentDeclined
from tests.model.actions import SharedAction
from tests.model.life import INVENTORY, PAYMENT, Life, Step
from tests.model.running import ROOT
from tests.model.world import World

BARE, SURE = "cancel and deadline at any moment", "everything goes well"
LOST, TWICE = "answers lost and late", "a fact heard twice past the inbox"
SEALED, MAILS = "sealed goods, refund refused", "mails"
OPERATED, UNREAD = "an operator acts", "an operator acts, a fact discarded"
UNSURE = "an operator acts, answers lost"
HELD = "        if hold.state is HoldState.RESERVED:\n            for"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A line of a service's source and what is put in its place; ``search`` is the one that finds it."""

    name: str
    file: str
    line: str
    instead: str
    search: str = BARE

    @property
    def source(self) -> Path:
        """The file as it is."""
        package = self.file.partition("/")[0]
        return ROOT / ("chassis/src" if package == "quadrille" else f"services/{package}/src") / self.file

    @property
    def applies(self) -> bool:
        """Tell whether the line to be changed is there exactly once."""
        return self.source.read_text("utf-8").count(self.line) == 1

    def planted_in(self, home: Path) -> Path:
        """Copy the package with its line changed; return the folder it lies in."""
        package = self.file.partition("/")[0]
        source = self.source.parents[self.file.count("/") - 1]
        shutil.copytree(source, home / package, ignore=shutil.ignore_patterns("__pycache__"))
        changed = home / self.file
        changed.write_text(changed.read_text("utf-8").replace(self.line, self.instead), "utf-8")
        return home


MUTANTS = (
    Mutant("confirm without looking at the state", "order/handlers.py",
           "if order is None or order.status not in OPEN:", "if order is None:"),
    Mutant("wait for stock.reserved before confirming", "order/handlers.py",
           "order.status not in OPEN:", "order.status is not Status.INVENTORY_RESERVED:", "without a deadline"),
    Mutant("cancelled before all acknowledgements", "order/domain.py", "return all(self.rank", "return any(self.rank"),
    Mutant("facts folded without rank", "order/domain.py",
           "if RANKS[participant][state] <= order.states.rank(participant):", "if not participant:", TWICE),
    Mutant("facts folded with a wrong rank", "order/domain.py",
           "CHARGED < REFUND_FAILED < DECLINED SKIPPED", "CHARGED < DECLINED < REFUND_FAILED SKIPPED"),
    Mutant("a deadline for every state", "order/handlers.py", "if order.status in OPEN else ()", "if order else ()"),
    Mutant("given up whatever it waits for", "order/handlers.py",
           "order is None or order.status is not AWAITS.get(command.participant):", "order is None:",
           "a participant is away at any moment"),
    Mutant("a second cancellation", "order/handlers.py", "    if order.reason:", "    if order.detail.failed:"),
    Mutant("only an order that is open ends", "order/handlers.py",
           "Status.PAYMENT_FAILED))\n    return _over(fact, orders, order)",
           "Status.PAYMENT_FAILED))\n    return ()"),
    Mutant("a failed undo freezes nothing", "order/handlers.py",
           "if order is None or order.reason is None:", "if order is None or order.reason:", SEALED),
    Mutant("nothing is out of stock", "order/handlers.py",
           "    if order and order.status is Status.PENDING:\n        return _undo",
           "    if order and order.status is Status.CONFIRMED:\n        return _undo", "out of stock"),
    Mutant("no tombstone at inventory", "inventory/domain.py",
           "self.holds.put(order_id, Hold(order_id, (), HoldState.RELEASED))", "self.holds.get(order_id)",
           "a fact discarded and replayed"),
    Mutant("one unit too many", "inventory/domain.py", "self._available(sku) < n)", "self._available(sku) < n - 1)",
           "two orders, one unit"),
    Mutant("released twice", "inventory/domain.py",
           "Nothing() if not hold or hold.state.ended else", "Nothing() if not hold else"),
    Mutant("sold goods come back from the held ones", "inventory/domain.py",
           'taken = {"committed": -n} if returned else {"held": -n}', 'taken = {"held": -n}'),
    Mutant("commit whatever there is", "inventory/domain.py",
           "if not hold or hold.state is not HoldState.RESERVED:", "if not hold:", "a fact discarded and replayed"),
    Mutant("no tombstone at payment", "payment/domain.py",
           "self._put(replace(payment, state=State.SKIPPED))", "self._put(payment)"),
    Mutant("ignore a cancel during a charge", "payment/domain.py",
           "self._put(replace(payment, cancel_wanted=True))", "self._put(payment)"),
    Mutant("charged under a cancellation, and no refund", "payment/domain.py",
           "refund=payment.cancel_wanted)", "refund=False)"),
    Mutant("charge without permission", "payment/domain.py",
           "payment.price and payment.permitted:", "payment.price:"),
    Mutant("refund whatever there is", "payment/domain.py",
           "elif payment.state is State.CHARGED and payment.price:", "elif payment.price:"),
    Mutant("unknown is declined", "payment/domain.py",
           "replace(payment, state=State.UNKNOWN)", "replace(payment, state=State.DECLINED)", LOST),
    Mutant("unknown is said each time", "payment/domain.py",
           'return "STILL_LOST"', "return payment.began_at", LOST),
    Mutant("not found is an outcome", "payment/handlers.py",
           "return _charge(answer.order_id, payments.ask_again(OrderId(answer.order_id)))",
           'return payments.decline(OrderId(answer.order_id), "not_found") and None', LOST),
    Mutant("not found is skipped under a cancellation", "payment/domain.py",
           "return Due(payment.price) if payment.state in OPEN and payment.price else None",
           "return None if payment.cancel_wanted else Due(payment.price)", LOST),
    Mutant("a late charge waits also under a cancellation", "payment/domain.py",
           "payment.state is State.UNKNOWN or payment.cancel_wanted or not late", "not late"),
    Mutant("a late charge waits for nobody", "payment/domain.py", "payment.cancel_wanted or not late", "True"),
    Mutant("a refused refund is a refund", "payment/domain.py",
           "state=State.REFUND_FAILED, code=code", "state=State.REFUNDED, code=code", SEALED),
    Mutant("a resolve closes an unanswered charge", "payment/domain.py",
           "        if payment.state in OPEN:\n            self.hurried",
           "        if not payment:\n            self.hurried", OPERATED),
    Mutant("a command made before the charge closes it", "payment/domain.py",
           "began_at=now, resolution=None", "began_at=now", UNREAD),
    Mutant("a resolve without a cancellation", "payment/domain.py",
           "not (cancelled or payment.cancel_wanted or payment.state in UNDOING)", "False", OPERATED),
    Mutant("a resolve ignores a cancellation that is not read", "payment/handlers.py",
           "cancelled=cancelled", "cancelled=False", UNREAD),
    Mutant("a resolve is said after the refund", "payment/domain.py",
           "if payment.state in ENDED or not payment.resolution:", "if not payment.resolution:", OPERATED),
    Mutant("the refund that landed after a resolve is ignored", "payment/domain.py",
           "(resolution and not resolution.contradicted)", "False", OPERATED),
    Mutant("the refund that landed after a resolve is said", "payment/domain.py",
           "if resolution and payment.state is State.RESOLVED:", "if not payment:", OPERATED),
    Mutant("the refund that landed is found each time", "payment/domain.py",
           "resolution=replace(resolution, contradicted=True)", "resolution=resolution", OPERATED),
    Mutant("a dropped refund is not asked for", "payment/handlers.py",
           "InquireRefund(answer.order_id) if resolved else None", "None", UNSURE),
    Mutant("a retry starts a second refund", "payment/domain.py",
           "if payment.state is State.REFUND_FAILED and payment.price:",
           "if payment.state in UNDOING and payment.price:", OPERATED),
    Mutant("a retry never ends", "payment/handlers.py",
           "RefundCard(command.order_id, price.amount_minor, again=True), asked", "asked", OPERATED),
    Mutant("a resolve leaves the goods held", "inventory/domain.py",
           HELD, "        if not hold:\n            for", UNREAD),
    Mutant("a resolve takes back what was sold", "inventory/domain.py",
           HELD, "        if hold:\n            for", OPERATED),
    Mutant("a retry of what has not failed", "inventory/domain.py",
           "if hold and hold.state is HoldState.RELEASE_FAILED else Nothing()", "if hold else Nothing()", OPERATED),
    Mutant("a hold is resolved without a cancellation", "inventory/domain.py",
           "(cancelled and not hold.state.ended)", "not hold.state.ended", OPERATED),
    Mutant("nobody may resolve a failed release", "inventory/domain.py",
           "hold.state is HoldState.RELEASE_FAILED or (cancelled", "(cancelled", OPERATED),
    Mutant("the confirmation is written after a cancellation", "notification/domain.py",
           "if notice.outdated:", "if notice.because:", "mails, a fact discarded"),
    Mutant("the confirmation goes out after a cancellation", "notification/domain.py",
           "is State.SENDING and not notice.outdated and", "is State.SENDING and", MAILS),
)  # fmt: skip


def hold_expires(world: World, stock: int, life: Life) -> Iterator[Step]:
    """A hold that ends by its own clock (against L1), by the handler of payment.declined that nobody said."""
    expired = world.number(PaymentDeclined(world.name(life)))
    after, stock_after = world.heard(life, INVENTORY, expired, stock)
    yield Step("a hold expires by itself", fair=False, life=after, stock=stock_after)


def no_intent(world: World, stock: int, life: Life) -> Iterator[Step]:
    """Payment calls the processor before anything is committed, and dies (against L10)."""
    queues = zip(world.queues, life.queues, strict=True)
    heads = [facts[0] for (service, _), facts in queues if facts and service == PAYMENT]
    if any(world.messages[fact].type == "stock.reserved" for fact in heads) and not life.charge:
        charged = life._replace(charge="charged")
        yield Step("payment charges in its handler and dies", fair=False, life=charged, stock=stock)


PLANTED: dict[str, SharedAction] = {"hold expires": hold_expires, "no intent": no_intent}
