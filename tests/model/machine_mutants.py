"""Faults of clocks, windows and retries, one line each, that only long lives find: the explorer has no days."""

from __future__ import annotations

from tests.model.mutants import Mutant

SEED, LIVES = "8", "300"  # most are found in the first fifty lives
MUTANTS = (
    Mutant("an inquiry gives up", "payment/gateway.py", "@outside.executes(InquireCharge, retry=INQUIRY)",
           "@outside.executes(InquireCharge, retry=type(INQUIRY)(INQUIRY.delays[:1]), "
           "exhausted=lambda intent: CardDeclined(intent.order_id, 'given_up'))"),
    Mutant("a refund is given up after minutes", "payment/gateway.py",
           "    precondition=when_refund,\n    retry=FOR_A_DAY,",
           "    precondition=when_refund,\n    retry=type(FOR_A_DAY)(FOR_A_DAY.delays[:2]),"),
    Mutant("a refund is given up after so many tries", "quadrille/intents.py",
           "> len(self.delays) and age >= self.max_age", "> len(self.delays)"),
    Mutant("an old charge is made without asking", "payment/gateway.py",
           "    return _charge_told(intent.order_id, told) if told.found else None", "    return None"),
    Mutant("an intent is old after a week", "quadrille/intents.py",
           "OLD = timedelta(hours=20)", "OLD = timedelta(days=7)"),
    Mutant("what is older than the window is guessed", "quadrille/consumer/deserializer.py",
           "if id_milliseconds(headers.id) < self.horizon_ms and", "if id_milliseconds(headers.id) < 0 and"),
    Mutant("a key is forgotten too early", "quadrille/processing/idempotency.py", "at - kept.at <= self.lives",
           "at - kept.at <= self.lives / 96"),
    Mutant("a timer's time is its id's", "quadrille/processing/envelope.py",
           'due: datetime = getattr(timer, "due", None) or id_time(identity)', "due: datetime = id_time(identity)"),
    Mutant("a charge may begin an hour late", "payment/domain.py",
           "now > payment.price.deadline_at", "(now - payment.price.deadline_at).total_seconds() > 3600"),
    Mutant("nobody looks a second time", "order/handlers.py",
           "patience.next(order.since, at)),) if order.debts else ()",
           "patience.next(order.since, at)),) if order.debts and not order.detail.stuck else ()"),
    Mutant("called for at once", "order/domain.py",
           "return sum(waited >= limit for limit in (self.warn, self.page, self.escalate))", "return 3"),
)  # fmt: skip
