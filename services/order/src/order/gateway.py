"""The way to callers' endpoints: each is told in the feed's order, tried again for a day, and given up then.

One intent an endpoint, however much it is to be told: an endpoint that hangs or is away holds up nobody but itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from order.domain import Notice, Telling, Webhook, live_secrets
from order.events import PushWebhook, WebhookDropped, WebhookGivenUp, WebhookPushed
from order.handlers import when_news
from quadrille.gateway import FOR_A_DAY, Gateway, NoResponseError, NotAllowedError, TransientError, send_webhook

AT_ONCE_SECONDS = 2.0  # then what was told is written down; a call that has begun by then has its own time
GIVEN_UP = "it took nothing for a day"
GONE = "it answered 410 Gone"
outside = Gateway("order")


class GoneError(Exception):
    """The endpoint says that it is none any more."""


class Endpoints:
    """The endpoints; any thread may tell one. ``find`` reads one with what comes next; ``loopback`` may be told."""

    def __init__(self, find: Callable[[str], Telling | None], *, loopback: bool = False, seconds: float = 10.0) -> None:
        self._find, self._loopback, self._seconds = find, loopback, seconds

    def push(self, said: PushWebhook) -> WebhookPushed | WebhookGivenUp | WebhookDropped:
        """Tell an endpoint what comes next; raises TransientError when its first is to be tried again."""
        try:
            telling = self._find(said.webhook_id)
        except OSError as away:
            message = "the feed cannot be read"
            raise TransientError(message) from away
        if telling is None:
            return WebhookDropped(said.webhook_id)
        place, sent, until = telling.place, 0, time.monotonic() + AT_ONCE_SECONDS
        for notice in telling.notices:
            if notice.type in telling.webhook.types:
                if sent and time.monotonic() > until:
                    break
                try:
                    self._send(telling.webhook, notice)
                except (TransientError, GoneError) as trouble:
                    if sent:  # what was taken is written down first
                        break
                    if isinstance(trouble, GoneError):
                        return WebhookGivenUp(said.webhook_id, GONE)
                    raise
                sent += 1
            place = notice.place
        return WebhookPushed(said.webhook_id, place.xid, str(place.key), place.number, sent)

    def _send(self, webhook: Webhook, notice: Notice) -> None:
        keys, address = live_secrets(webhook.keys, datetime.now(UTC)), urlsplit(webhook.url).netloc.rpartition("@")[2]
        try:
            status = send_webhook(
                webhook.url, keys, notice.identity, notice.body, loopback=self._loopback, seconds=self._seconds
            )
        except NotAllowedError as why:
            raise TransientError(str(why), address=address) from why
        except NoResponseError as why:
            raise TransientError(str(why), address=why.address) from why
        if status == HTTPStatus.GONE:
            raise GoneError
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            redirects = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
            message = f"it answered {status}" + (": redirects are not followed" if redirects else "")
            raise TransientError(message, address=address)


@outside.executes(
    PushWebhook,
    precondition=when_news,
    retry=FOR_A_DAY,
    exhausted=lambda said: WebhookGivenUp(said.webhook_id, GIVEN_UP),
    cancelled=lambda said: WebhookDropped(said.webhook_id),
)
def push(said: PushWebhook, endpoints: Endpoints) -> WebhookPushed | WebhookGivenUp | WebhookDropped:
    """Tell an endpoint what comes next."""
    return endpoints.push(said)
