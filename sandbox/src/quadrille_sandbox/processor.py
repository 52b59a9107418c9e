"""The card processor: one definite answer per idempotency key, whatever happens to the calls that ask for it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from quadrille_sandbox.cards import Behaviour, behaviour
from quadrille_sandbox.http_server import Answer, Later, Lost, Reply, refusal, reply
from quadrille_sandbox.ledger import Entry, Ledger

Schedule: TypeAlias = "Callable[[float, Callable[[], object]], object]"  # (seconds, call), as loop.call_later
PROCESSING = reply(202, {"status": "processing"})
NOT_FOUND = refusal(404, "not_found", "no answer is stored under this key")
IN_PROGRESS = refusal(409, "in_progress", "the first call with this key is being carried out")
REUSED = refusal(422, "key_reused", "this key was used with other parameters")
UNAVAILABLE = refusal(503, "unavailable", "nothing was done; ask again with the same key")


@dataclass(frozen=True, slots=True)
class ChargeAsked:
    """The parameters of a charge, stored with its key."""

    payment_token: str
    amount_minor: int
    currency: str
    order_id: str


@dataclass(frozen=True, slots=True)
class RefundAsked:
    """The parameters of a refund, stored with its key."""

    charge_key: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Rules:
    """How long things take; ``key_ttl`` 0 keeps keys for ever."""

    settle_after: float = 86_400.0  # seconds: void before, refund after
    key_ttl: float = 0.0


class Processor:
    """Charges, refunds and inquiries over one ledger; used from one thread."""

    def __init__(self, ledger: Ledger, rules: Rules, later: Schedule) -> None:
        """Take up again what was processing when the last process ended."""
        self.ledger = ledger
        self._rules = rules
        self._later = later
        self._in_flight: dict[str, ChargeAsked | RefundAsked] = {}
        self._errors: Counter[str] = Counter()
        self._lost: set[str] = set()
        for begun in tuple(ledger.pending.values()):
            remaining = begun.at + behaviour(begun.payment_token).pending - ledger.clock()
            later(max(remaining, 0), partial(self._decide, begun.key, _charge_asked(begun)))

    def charge(self, key: str, asked: ChargeAsked) -> Answer:
        """Charge a card once per key."""
        if known := self._known_charge(key):
            return _shown(known) if _charge_asked(known) == asked else REUSED
        if begun := self._in_flight.get(key):
            return IN_PROGRESS if begun == asked else REUSED
        return self._first_charge(key, asked, behaviour(asked.payment_token))

    def _first_charge(self, key: str, asked: ChargeAsked, card: Behaviour) -> Answer:
        if self._fails(f"charge {key}", card.errors):
            return UNAVAILABLE
        if card.loses == "before" and self._loses(key):
            return Lost()
        if card.pending:
            return self._begin(key, asked, card)
        if card.slow:
            return self._postpone(key, asked, card.slow, partial(self._decide, key, asked))
        decided = self._decide(key, asked)
        return Lost() if card.loses == "after" else decided

    def inquire_charge(self, key: str) -> Reply:
        """Tell what became of a charge."""
        if known := self._known_charge(key):
            return _shown(known)
        return PROCESSING if key in self._in_flight else NOT_FOUND

    def refund(self, key: str, asked: RefundAsked) -> Answer:
        """Give a charge back once per key; a refusal is not stored."""
        if known := self.ledger.refunds.get(key):
            return _shown(known) if _refund_asked(known) == asked else REUSED
        if begun := self._in_flight.get(key):
            return IN_PROGRESS if begun == asked else REUSED
        charge = self.ledger.charges.get(asked.charge_key)
        if not charge or charge.kind != "CAPTURE":
            return _refused("charge_not_found")
        card = behaviour(charge.payment_token)
        if self._fails(f"refund {key}", card.refund_errors):
            return UNAVAILABLE
        if card.refund_refused:
            return _refused(card.refund_refused)
        give_back = partial(self._give_back, key, asked, charge)
        return self._postpone(key, asked, card.refund_slow, give_back) if card.refund_slow else give_back()

    def inquire_refund(self, key: str) -> Reply:
        """Tell what became of a refund; one in flight is neither found nor not found."""
        if known := self.ledger.refunds.get(key):
            return _shown(known)
        return PROCESSING if key in self._in_flight else NOT_FOUND

    def _known_charge(self, key: str) -> Entry | None:
        known = self.ledger.charges.get(key) or self.ledger.pending.get(key)
        if known and self._rules.key_ttl and self.ledger.clock() - known.at > self._rules.key_ttl:
            return None
        return known

    def _fails(self, call: str, errors: int) -> bool:
        """Count the errors a test value owes to each key; they begin again with the process."""
        if self._errors[call] >= errors:
            return False
        self._errors[call] += 1
        return True

    def _loses(self, key: str) -> bool:
        first = key not in self._lost
        self._lost.add(key)
        return first

    def _begin(self, key: str, asked: ChargeAsked, card: Behaviour) -> Reply:
        self.ledger.add(_begun(key, asked, self.ledger.clock()))
        self._later(card.pending, partial(self._decide, key, asked))
        return PROCESSING

    def _postpone(
        self, key: str, asked: ChargeAsked | RefundAsked, seconds: float, carry_out: Callable[[], Reply]
    ) -> Later:
        def finish() -> Reply:
            del self._in_flight[key]
            return carry_out()

        self._in_flight[key] = asked
        return Later(seconds, finish)

    def _decide(self, key: str, asked: ChargeAsked) -> Reply:
        begun, card = _begun(key, asked, self.ledger.clock()), behaviour(asked.payment_token)
        if card.declines:
            return _shown(self.ledger.add(replace(begun, kind="DECLINED", code=card.declines)))
        return _shown(self.ledger.add(replace(begun, kind="CAPTURE", reference=_reference("ch"))))

    def _give_back(self, key: str, asked: RefundAsked, charge: Entry) -> Reply:
        if asked.amount_minor > self.ledger.left(charge):
            return _refused("amount_exceeds_charge")
        now = self.ledger.clock()
        entry = Entry(
            kind="VOID" if now - charge.at < self._rules.settle_after else "REFUND",
            at=now,
            key=key,
            order_id=charge.order_id,
            amount_minor=asked.amount_minor,
            currency=charge.currency,
            reference=_reference("re"),
            charge_key=charge.key,
        )
        return _shown(self.ledger.add(entry))


def _begun(key: str, asked: ChargeAsked, at: float) -> Entry:
    return Entry("PENDING", at, key, asked.order_id, asked.amount_minor, asked.currency, asked.payment_token)


def _charge_asked(entry: Entry) -> ChargeAsked:
    return ChargeAsked(entry.payment_token, entry.amount_minor, entry.currency, entry.order_id)


def _refund_asked(entry: Entry) -> RefundAsked:
    return RefundAsked(entry.charge_key, entry.amount_minor)


def _reference(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


def _refused(code: str) -> Reply:
    return reply(200, {"status": "refused", "code": code})


def _shown(entry: Entry) -> Reply:
    match entry.kind:
        case "PENDING":
            return PROCESSING
        case "CAPTURE":
            return reply(200, {"status": "charged", "reference": entry.reference})
        case "DECLINED":
            return reply(200, {"status": "declined", "code": entry.code})
        case "VOID" | "REFUND":
            return reply(200, {"status": "refunded", "kind": entry.kind, "reference": entry.reference})
