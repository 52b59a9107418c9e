"""Which call goes where: the processor's API, the ledger, the mailbox, and the two questions of a supervisor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from quadrille_sandbox import cards
from quadrille_sandbox.chaos import Chaos, InvalidChaosError, plan_of
from quadrille_sandbox.http_server import Answer, Later, Lost, Reply, Request, Streamed, pieces, refusal, reply
from quadrille_sandbox.mailbox import BOUNCING, Mailbox
from quadrille_sandbox.pages import asset, mail_page
from quadrille_sandbox.processor import UNAVAILABLE, ChargeAsked, Processor, RefundAsked

LARGEST = 2**53 - 1  # which every JSON reader has exactly
SHOWN = 50
WRONG_CURRENCY = "currency is three capital letters"
WRONG_AMOUNT = "amount_minor is positive and at most 2^53 - 1"
WRONG_KEY = "Idempotency-Key is 1 to 255 visible ASCII characters"
NOT_JSON = "the body is not JSON"
BOUNCES = {"given_as": "email", "value": f"nobody@{BOUNCING}", "does": "bounces: the address does not exist"}
_CURRENCY = re.compile(r"[A-Z]{3}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_NUMBER = re.compile(r"[0-9]{1,18}")
Handler: TypeAlias = Callable[[Request], Answer]


class MalformedRequestError(Exception):
    """The request says something this API does not understand."""


class Routes:
    """The sandbox's HTTP face."""

    def __init__(self, processor: Processor, mailbox: Mailbox, chaos: Chaos) -> None:
        self._processor = processor
        self._mailbox = mailbox
        self._chaos = chaos
        self._calls: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/charges"): self._charge,
            ("POST", "/v1/refunds"): self._refund,
            ("GET", "/ledger"): self._ledger,
            ("GET", "/chaos"): lambda _: reply(200, chaos.document()),
            ("PUT", "/chaos"): self._begin_chaos,
            ("DELETE", "/chaos"): self._end_chaos,
            ("GET", "/mail"): self._mail,
            ("GET", "/mail.css"): lambda _: asset("mail.css", "text/css; charset=utf-8"),
            ("GET", "/test-values"): lambda _: reply(200, {"test_values": [*cards.test_values(), BOUNCES]}),
            ("GET", "/livez"): lambda _: reply(200, {"status": "live"}),
            ("GET", "/readyz"): lambda _: reply(200, {"status": "ready", "mails": len(self._mailbox)}),
            ("GET", "/"): lambda _: Reply(302, b"", "text/plain", (("Location", "/mail"),)),
        }
        self._inquiries: dict[str, Callable[[str], Reply]] = {
            "/v1/charges/": processor.inquire_charge,
            "/v1/refunds/": processor.inquire_refund,
        }

    def handle(self, request: Request) -> Answer:
        """Answer one request; a full disk is the processor's outage, never a half-made charge."""
        try:
            answer = self._route(request)
        except MalformedRequestError as refused:
            return refusal(400, "malformed", str(refused))
        except OSError:
            return UNAVAILABLE
        return Later(answer.seconds, _survives(answer.finish)) if isinstance(answer, Later) else answer

    def _route(self, request: Request) -> Answer:
        if call := self._calls.get((request.method, request.path)):
            return call(request)
        for prefix, inquire in self._inquiries.items():
            if request.path.startswith(prefix) and request.method == "GET":
                return self._troubled(partial(inquire, request.path[len(prefix) :]))
        allowed = [method for method, path in self._calls if path == request.path]
        allowed += ["GET" for prefix in self._inquiries if request.path.startswith(prefix)]
        if allowed:
            methods = ", ".join(allowed)
            return refusal(405, "method_not_allowed", f"only {methods}", ("Allow", methods))
        return refusal(404, "not_found", "there is no such page")

    def _troubled(self, call: Callable[[], Answer]) -> Answer:
        """Make one call of the processor, as chaos will have it; an answer that comes late anyway is not lost too."""
        fault = self._chaos.call()
        if fault == "error":
            return UNAVAILABLE
        if fault == "lost_before":
            return Lost()
        if seconds := self._chaos.latency:
            return Later(seconds, call)
        answer = call()
        return Lost() if fault == "lost_after" and isinstance(answer, Reply) else answer

    def _begin_chaos(self, request: Request) -> Answer:
        try:
            self._chaos.begin(plan_of(json.loads(request.body)))
        except (ValueError, RecursionError) as wrong:
            raise MalformedRequestError(NOT_JSON) from wrong
        except InvalidChaosError as wrong:
            raise MalformedRequestError(str(wrong)) from wrong
        return reply(200, self._chaos.document())

    def _end_chaos(self, request: Request) -> Answer:
        del request
        self._chaos.end()
        return reply(200, self._chaos.document())

    def _charge(self, request: Request) -> Answer:
        sent = _document(request, {"payment_token": str, "amount_minor": int, "currency": str, "order_id": str})
        asked = ChargeAsked(str(sent["payment_token"]), _amount(sent), str(sent["currency"]), str(sent["order_id"]))
        if not _CURRENCY.fullmatch(asked.currency):
            raise MalformedRequestError(WRONG_CURRENCY)
        return self._troubled(partial(self._processor.charge, _key(request), asked))

    def _refund(self, request: Request) -> Answer:
        sent = _document(request, {"charge_key": str, "amount_minor": int})
        refund = RefundAsked(str(sent["charge_key"]), _amount(sent))
        return self._troubled(partial(self._processor.refund, _key(request), refund))

    def _ledger(self, request: Request) -> Answer:
        lines = self._processor.ledger.lines(request.query.get("order_id", ""), _number(request, "after"))
        shown = "text/html" in request.headers.get("accept", "")  # a browser would save what it cannot show
        return Streamed(
            "text/plain; charset=utf-8" if shown else "application/x-ndjson", pieces(_line(line) for line in lines)
        )

    def _mail(self, request: Request) -> Answer:
        order_id, before = request.query.get("order_id", ""), _number(request, "before")
        limit = min(max(_number(request, "limit") or SHOWN, 1), 1000)
        found = tuple(self._mailbox.of_order(order_id) if order_id else self._mailbox.newest(limit, before))
        if "text/html" in request.headers.get("accept", ""):
            return mail_page(found, order_id, len(self._mailbox), filtered=bool(order_id))
        following = found[-1].number if found and not order_id and found[-1].number > 1 else None
        return reply(200, {"mails": [mail.document() for mail in found], "before": following})


def _survives(finish: Callable[[], Answer]) -> Callable[[], Answer]:
    def survived() -> Answer:
        try:
            answer = finish()
        except OSError:
            return UNAVAILABLE
        return Later(answer.seconds, _survives(answer.finish)) if isinstance(answer, Later) else answer

    return survived


def _document(request: Request, fields: Mapping[str, type]) -> Mapping[str, object]:
    """Return the body's members; raises MalformedJsonError unless they are exactly those asked for."""
    try:
        sent = json.loads(request.body)
    except (ValueError, RecursionError) as wrong:
        raise MalformedRequestError(NOT_JSON) from wrong
    if not isinstance(sent, dict) or {name: type(value) for name, value in sent.items()} != dict(fields):
        why = f"the body has exactly the members {', '.join(fields)}"
        raise MalformedRequestError(why)
    return sent


def _amount(sent: Mapping[str, object]) -> int:
    amount = sent["amount_minor"]
    if not isinstance(amount, int) or not 0 < amount <= LARGEST:
        raise MalformedRequestError(WRONG_AMOUNT)
    return amount


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if not _KEY.fullmatch(key):
        raise MalformedRequestError(WRONG_KEY)
    return key


def _number(request: Request, name: str) -> int:
    asked = request.query.get(name, "0")
    if not _NUMBER.fullmatch(asked):
        why = f"{name} is a number"
        raise MalformedRequestError(why)
    return int(asked)


def _line(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
