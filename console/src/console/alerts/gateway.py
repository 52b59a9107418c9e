"""The way to the targets: each telling is an intent, tried again as the chassis tries, and given up in the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus

from console.alerts.domain import AlertRefused, AlertTaken, SendAlert, when_news
from console.alerts.targets import Target, body_of, headers_of
from console.domain import Shown
from quadrille import Decision
from quadrille.gateway import Gateway, NoResponseError, NotAllowedError, TransientError, post

LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
outside = Gateway("console")


class Notifier:
    """The targets; any thread may tell one. ``base`` is the console's own address, for links."""

    def __init__(
        self, targets: Mapping[str, Target], base: str = "", *, loopback: bool = False, seconds: float = 10.0
    ) -> None:
        self.targets, self._base, self._loopback, self._seconds = targets, base.rstrip("/"), loopback, seconds

    def tell(self, said: SendAlert) -> AlertTaken | AlertRefused:
        """Tell a target; raises TransientError when it is to be tried again."""
        target = self.targets.get(said.target)
        if target is None:
            return _refused(said, "there is no such target any more")
        body = body_of(target, said, self._page(said))
        headers = headers_of(target, said, body, int(time.time()))
        try:
            status = post(target.url, headers, body, loopback=self._loopback, seconds=self._seconds)
        except NotAllowedError as why:
            return _refused(said, str(why))
        except NoResponseError as why:
            raise TransientError(str(why), address=why.address) from why
        if status in LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            message = f"the target answered {status}"
            raise TransientError(message)
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return _refused(said, f"the target answered {status}: redirects are not followed")
        if status >= HTTPStatus.BAD_REQUEST:
            return _refused(said, f"the target answered {status}")
        return AlertTaken(said.alert, said.target, said.number)

    def _page(self, said: SendAlert) -> str:
        return f"{self._base}/orders/{said.order_id}" if self._base and said.order_id else self._base


def _refused(said: SendAlert, reason: str) -> AlertRefused:
    return AlertRefused(said.alert, said.target, said.number, reason)


def _given_up(said: SendAlert) -> AlertRefused:
    return _refused(said, "it was not reached within a quarter of an hour")


def _when_news(said: SendAlert, shown: Shown) -> Decision:
    return when_news(said, shown.alerts)


def _overtaken(said: SendAlert) -> AlertRefused:
    return _refused(said, "it was overtaken by what came after, or is too long ago")


@outside.executes(SendAlert, exhausted=_given_up, precondition=_when_news, cancelled=_overtaken)
def send(said: SendAlert, notifier: Notifier) -> AlertTaken | AlertRefused:
    """Tell a target."""
    return notifier.tell(said)
