"""What one search may let happen, and which searches make a profile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """The world of one search; numbers are how often a trouble may befall each order, 0 is never.

    ``card`` and ``refund`` are what the processor may decide; ``again``: events heard twice, past the inbox unless
    ``inbox``; ``parked``: events set aside with all that follow until they are redriven; ``discarded``: events passed
    over and replayed later; ``frozen``: senders that wake up after their lease ran out, requests that arrive late;
    ``away``: it is given up for a participant that is away; ``operator``: a person resolves whatever is owed;
    ``commands``: retried refunds, resolves while one is asked for.
    """

    orders: int = 1
    stock: int = 1
    sealed: bool = False
    blocked: bool = False
    cancel: bool = True
    deadline: bool = True
    away: bool = False
    card: tuple[str, ...] = ("charged", "declined")
    refund: tuple[str, ...] = ("refunded",)
    lost: bool = False
    slow: bool = False
    again: int = 0
    inbox: bool = False
    parked: int = 0
    discarded: int = 0
    frozen: int = 0
    operator: bool = False
    commands: int = 0
    mail: bool = False
    address: bool = True


QUICK = {
    "everything goes well": Scope(cancel=False, deadline=False, card=("charged",), mail=True),
    "cancel and deadline at any moment": Scope(),
    "without a deadline": Scope(deadline=False, lost=True, frozen=1, refund=("refunded", "refused")),
    "a participant is away at any moment": Scope(cancel=False, deadline=False, away=True, lost=True),
    "answers lost and late": Scope(lost=True, slow=True, frozen=1, refund=("refunded", "refused", "exhausted")),
    "sealed goods, refund refused": Scope(sealed=True, refund=("refunded", "refused")),
    "an operator acts": Scope(sealed=True, refund=("refunded", "refused"), operator=True, commands=1),
    "an operator acts, answers lost": Scope(deadline=False, card=("charged",), lost=True, operator=True),
    "an operator acts, a fact parked": Scope(parked=1, card=("charged",), operator=True),
    "an operator acts, a fact discarded": Scope(discarded=1, card=("charged",), operator=True),
    "a blocked customer": Scope(blocked=True, lost=True),
    "out of stock": Scope(stock=0, deadline=False, again=2),
    "a fact heard twice past the inbox": Scope(again=1, lost=True),
    "a fact heard twice": Scope(again=1, inbox=True),
    "a fact parked": Scope(parked=1),
    "a fact discarded and replayed": Scope(discarded=1),
    "mails": Scope(mail=True, deadline=False),
    "mails, a fact discarded": Scope(mail=True, deadline=False, discarded=1),
    "a customer without an address": Scope(mail=True, deadline=False, address=False),
    "two orders, one unit": Scope(orders=2, card=("charged",), deadline=False),
    "two orders, one unit, cards declined, deadlines": Scope(orders=2),
}
EVERY = ("refunded", "refused", "exhausted")
CI = QUICK | {
    "two orders, one unit, answers lost": Scope(orders=2, card=("charged",), deadline=False, lost=True),
    "two orders, one unit, sealed": Scope(orders=2, sealed=True),
    "two orders, one unit, a fact of each parked": Scope(orders=2, card=("charged",), deadline=False, parked=1),
    "two facts parked, answers lost": Scope(parked=2, lost=True),
    "two facts discarded": Scope(discarded=2),
    "two facts heard twice past the inbox": Scope(again=2),
    "two senders frozen": Scope(frozen=2, lost=True, slow=True, sealed=True, refund=EVERY),
    "a fact discarded, answers lost and late": Scope(discarded=1, frozen=1, lost=True, slow=True, refund=EVERY),
    "an operator acts, two facts parked": Scope(parked=2, deadline=False, card=("charged",), operator=True),
}
NIGHTLY = CI | {
    "one parked, one discarded, one heard twice": Scope(parked=1, discarded=1, again=1),
    "a fact heard twice, answers lost and late": Scope(again=1, frozen=1, lost=True, slow=True, refund=EVERY),
    "mails, answers lost, sealed": Scope(mail=True, frozen=1, lost=True, sealed=True, refund=("refunded", "refused")),
}
PROFILES = {"quick": QUICK, "ci": CI, "nightly": NIGHTLY}
