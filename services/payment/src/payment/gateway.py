"""The card processor as payment sees it: every effect under its key, and no answer guessed (laws L7, L10)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    ChargeCardDropped,
    ChargeNotFound,
    ChargeUnknown,
    InquireCharge,
    InquireRefund,
    RefundCard,
    RefundCardDropped,
    RefundExhausted,
    RefundNotFound,
    RefundRefused,
    charge_key,
    refund_key,
)
from payment.handlers import when_charge, when_refund
from quadrille.gateway import (
    FOR_A_DAY,
    INQUIRY,
    Breaker,
    CircuitOpenError,
    Gateway,
    HttpClient,
    Limits,
    NoResponseError,
    TransientError,
)

FAST_TRIES = (0.0, 0.1, 0.2, 0.4)  # seconds to wait before each: a call, and three retries
JITTER = 0.1
outside = Gateway("payment")


@dataclass(frozen=True, slots=True)
class Told:
    """A definite answer of the processor: 200 with a document, or 404."""

    found: bool
    document: Mapping[str, object]

    def text(self, name: str) -> str:
        """Return a member that is text; raises TransientError, so that an answer not understood is no answer."""
        if not isinstance(value := self.document.get(name), str) or not value:
            message = f"the processor's answer has no {name}"
            raise TransientError(message)
        return value


@dataclass(frozen=True, slots=True)
class Unsettled:
    """How many calls may have reached the processor, none of which it has answered for good."""

    attempts: int


class Processor:
    """The processor's API; any thread may use it. ``url`` is its base, ``timeout`` in seconds is an answer's."""

    def __init__(self, url: str, timeout: float = 3.0, limits: Limits | None = None) -> None:
        self.peer = HttpClient(url, timeout, limits, name="processor")

    @property
    def breaker(self) -> Breaker:
        """The breaker every call goes through."""
        return self.peer.breaker

    def insist(self, path: str, key: str, body: Mapping[str, object]) -> Told | Unsettled:
        """POST under one key, again after 100, 200 and 400 ms + U(0, 100) ms; TransientError if none was sent.

        A breaker that refuses ends the tries: the next ones would be refused too.
        """
        sent, trouble = 0, Exception()
        for wait in FAST_TRIES:  # a plain loop: stamina's adds 48 µs to each call of 135 µs
            if wait:
                time.sleep(wait + random.uniform(0, JITTER))  # noqa: S311 - jitter
            try:
                return self.ask("POST", path, key, body)
            except NoResponseError as lost:
                sent, trouble = sent + lost.sent, lost
            except CircuitOpenError as refused:
                trouble = refused
                break
        if not sent:
            raise TransientError(str(trouble), address=self.peer.address) from trouble
        return Unsettled(sent)

    def look_up(self, path: str, key: str) -> Told:
        """GET what is stored under a key; raises TransientError when that cannot be known now."""
        try:
            return self.ask("GET", f"{path}/{quote(key, safe=':')}", key)
        except (NoResponseError, CircuitOpenError) as trouble:
            raise TransientError(str(trouble), address=self.peer.address) from trouble

    def ask(self, method: str, path: str, key: str, body: Mapping[str, object] | None = None) -> Told:
        """Make one call; raises NoResponseError, CircuitOpenError (none made), TransientError (odd answer)."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Idempotency-Key": key, "Content-Type": "application/json"}
        status, answer = self.peer.call(method, path, headers, content)
        why = f"the processor answered {status:d}"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
            raise NoResponseError(why, sent=True, address=self.peer.address)
        told = Told(status == HTTPStatus.OK, _document(answer))
        if told.found or (status == HTTPStatus.NOT_FOUND and told.document.get("error") == "not_found"):
            return told
        # neither done nor declined: our mistake or a stranger's page, so a person must look
        raise TransientError(why, address=self.peer.address)


@outside.executes(
    ChargeCard, precondition=when_charge, retry=INQUIRY, cancelled=lambda intent: ChargeCardDropped(intent.order_id)
)
def charge(intent: ChargeCard, processor: Processor) -> CardCharged | CardDeclined | ChargeUnknown:
    """Charge once under the key ``charge:<order>``; raises TransientError when nothing was sent."""
    body = {
        "payment_token": intent.payment_token,
        "amount_minor": intent.amount_minor,
        "currency": intent.currency,
        "order_id": intent.order_id,
    }
    match processor.insist("/v1/charges", charge_key(intent.order_id), body):
        case Unsettled(attempts):
            return ChargeUnknown(intent.order_id, attempts)
        case Told() as told:
            return _charge_told(intent.order_id, told)


@outside.looks_up(ChargeCard)
def look_for_charge(intent: ChargeCard, processor: Processor) -> CardCharged | CardDeclined | None:
    """Ask for an old charge before it is made; raises TransientError while it is processing or nobody answers."""
    told = processor.look_up("/v1/charges", charge_key(intent.order_id))
    return _charge_told(intent.order_id, told) if told.found else None


@outside.executes(InquireCharge, retry=INQUIRY)
def inquire_charge(intent: InquireCharge, processor: Processor) -> CardCharged | CardDeclined | ChargeNotFound:
    """Ask what became of the charge; raises TransientError while it is processing or nobody answers."""
    told = processor.look_up("/v1/charges", charge_key(intent.order_id))
    return _charge_told(intent.order_id, told) if told.found else ChargeNotFound(intent.order_id)


outside.share_retries(
    ChargeCard, InquireCharge
)  # unknown, not found and asked again: less and less often, without an end


@outside.executes(
    RefundCard,
    precondition=when_refund,
    retry=FOR_A_DAY,
    exhausted=lambda intent: RefundExhausted(intent.order_id),
    cancelled=lambda intent: RefundCardDropped(intent.order_id),
)
def refund(intent: RefundCard, processor: Processor) -> CardRefunded | RefundRefused:
    """Give the charge back once under the key ``refund:<order>``; raises TransientError while the outcome is unknown.

    An operator's retry inquires first, whatever its own age: the first try may be long ago.
    """
    if intent.again and (known := look_for_refund(intent, processor)):
        return known
    body = {"charge_key": charge_key(intent.order_id), "amount_minor": intent.amount_minor}
    match processor.insist("/v1/refunds", refund_key(intent.order_id), body):
        case Unsettled():
            message = "the refund's outcome is unknown"
            raise TransientError(message)
        case Told() as told:
            return _refund_told(intent.order_id, told)


@outside.looks_up(RefundCard)
def look_for_refund(intent: RefundCard, processor: Processor) -> CardRefunded | None:
    """Ask for an old refund before it is made; raises TransientError when nobody can tell now."""
    return _refund_stored(intent.order_id, processor)


@outside.executes(InquireRefund, retry=INQUIRY)
def inquire_refund(intent: InquireRefund, processor: Processor) -> CardRefunded | RefundNotFound:
    """Ask what became of the refund; raises TransientError when nobody can tell now."""
    return _refund_stored(intent.order_id, processor) or RefundNotFound(intent.order_id)


def _refund_stored(order_id: str, processor: Processor) -> CardRefunded | None:
    """Return the refund under the order's key; None where there is none, or one that was refused: nothing went back."""
    told = processor.look_up("/v1/refunds", refund_key(order_id))
    known = _refund_told(order_id, told) if told.found else None
    return known if isinstance(known, CardRefunded) else None


def _charge_told(order_id: str, told: Told) -> CardCharged | CardDeclined:
    match told.text("status"):
        case "charged":
            return CardCharged(order_id, told.text("reference"))
        case "declined":
            return CardDeclined(order_id, told.text("code"))
        case other:
            message = f"the processor's status of a charge is {other[:20]!r}"
            raise TransientError(message)


def _refund_told(order_id: str, told: Told) -> CardRefunded | RefundRefused:
    match told.text("status"):
        case "refunded":
            return CardRefunded(order_id, told.text("kind"), told.text("reference"))
        case "refused":
            return RefundRefused(order_id, told.text("code"))
        case other:
            message = f"the processor's status of a refund is {other[:20]!r}"
            raise TransientError(message)


def _document(content: bytes) -> Mapping[str, object]:
    """Return a JSON object; what is none has no members, and whoever needs one finds it missing."""
    with suppress(ValueError, RecursionError):
        if isinstance(found := json.loads(content), dict):
            return found
    return {}
