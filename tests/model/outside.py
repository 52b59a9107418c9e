"""The card processor and the mail server: what may become of a call, its answer kept, lost, late or never given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from notification.events import MailFailed, MailSent, SendMail
from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    ChargeNotFound,
    ChargeUnknown,
    InquireCharge,
    InquireRefund,
    RefundCard,
    RefundExhausted,
    RefundNotFound,
    RefundRefused,
)
from quadrille.messages import Result
from tests.model.life import CHANCE, FAIR, Life
from tests.model.scope import Scope


class Came(NamedTuple):
    """How a call ended: the answer, None if the intent waits for its next try, and what it did out there, if anything.

    ``late``: the request is still on its way, though its sender has given up.
    """

    line: str
    fair: bool
    answer: Result | None = None
    charge: str = ""
    refunded: bool = False
    late: bool = False


Call: TypeAlias = Callable[[Scope, Life, str], Iterator[Came]]


def charge(scope: Scope, life: Life, name: str) -> Iterator[Came]:
    """A charge under its key: the first to arrive decides, every later one hears the same."""
    unknown = ChargeUnknown(name, 3)
    if life.charge == "processing":
        yield Came("the processor is still at it", FAIR, unknown)
    elif life.charge:
        yield Came(f"the processor answers {life.charge}, as before", FAIR, _told(life.charge, name))
        if scope.lost:
            yield Came("the processor's answers are lost", CHANCE, unknown)
    else:
        yield from _first_charge(scope, life, name, unknown)


def _first_charge(scope: Scope, life: Life, name: str, unknown: Result) -> Iterator[Came]:
    for decided in scope.card:
        yield Came(f"the processor decides {decided} and answers", FAIR, _told(decided, name), decided)
        if scope.lost:
            yield Came(f"the processor decides {decided}, its answers are lost", CHANCE, unknown, decided)
            yield Came(f"the processor decides {decided}, the sender dies before its commit", CHANCE, None, decided)
    if scope.lost:
        yield Came("the processor fails", CHANCE, unknown)
    if scope.slow:
        yield Came("the processor takes its time", CHANCE, unknown, "processing")
    if life.left.frozen:
        yield Came("the sender gives up, its request is still on its way", CHANCE, unknown, late=True)


def inquire_charge(_: Scope, life: Life, name: str) -> Iterator[Came]:
    """What is stored under the key, which may be nothing yet."""
    if life.charge == "processing":
        yield Came("the processor is still at it", FAIR)
    else:
        answer = _told(life.charge, name) if life.charge else ChargeNotFound(name)
        yield Came(f"the processor knows: {life.charge or 'nothing'}", FAIR, answer)


def refund(scope: Scope, life: Life, name: str) -> Iterator[Came]:
    """A refund under its key; a refusal is not stored."""
    given = CardRefunded(name, "VOID", "re")
    if "exhausted" in scope.refund:
        yield Came("no try is ever answered", CHANCE, RefundExhausted(name))
    if life.refunded or "refunded" in scope.refund:
        yield Came("the processor gives the money back and answers", FAIR, given, refunded=True)
    if scope.lost and "refunded" in scope.refund:
        yield Came("the processor gives the money back, its answer is lost", CHANCE, refunded=True)
    if not life.refunded and "refused" in scope.refund:
        yield Came("the processor refuses the refund", CHANCE, RefundRefused(name, "card_closed"))


def inquire_refund(_: Scope, life: Life, name: str) -> Iterator[Came]:
    """What is stored under the key: a refund, or nothing."""
    answer = CardRefunded(name, "VOID", "re") if life.refunded else RefundNotFound(name)
    yield Came(f"the processor knows: {'refunded' if life.refunded else 'nothing'}", FAIR, answer)


def mail(name: str, kind: str) -> Iterator[Came]:
    """A mail: taken, or refused for good."""
    yield Came("the mail server takes it", FAIR, MailSent(name, kind))
    yield Came("the mail server refuses it", CHANCE, MailFailed(name, kind, "no mailbox"))


CALLS: dict[type, Call] = {
    ChargeCard: charge,
    InquireCharge: inquire_charge,
    RefundCard: refund,
    InquireRefund: inquire_refund,
}


def called(scope: Scope, life: Life, intent: object) -> Iterator[Came]:
    """Return all that may become of carrying out an intent."""
    if isinstance(intent, SendMail):
        return mail(intent.order_id, intent.kind)
    return CALLS[type(intent)](scope, life, getattr(intent, "order_id", ""))


def _told(decided: str, name: str) -> Result:
    return CardCharged(name, "ch") if decided == "charged" else CardDeclined(name, "insufficient_funds")
