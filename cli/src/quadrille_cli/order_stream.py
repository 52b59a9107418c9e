"""Stream of an order API: what becomes of one order, or of all of a caller's, as it comes; without a gap, for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from quadrille_cli.client import Client, NoAnswerError

PATIENCE_SECONDS = 45.0
"""Silence that a stream may keep: it says something every 15 s."""
TRIES = 3
Change = dict[str, Any]


def changes(url: str, order: str) -> Iterator[Change]:
    """Yield each change of status: of an order from its first on until it is final, of all from now on without end.

    A stream that ends or is lost is taken up where it was. Raises what the client raises; NoAnswerError after three
    tries without an answer.
    """
    last, failed = "", 0
    path = f"/v1/orders/{order}/stream" if order else "/v1/events/stream"
    while failed < TRIES:
        try:
            with Client(url, timeout=PATIENCE_SECONDS) as api:
                for name, identity, data in api.follow(path, {"Last-Event-ID": last} if last else {}):
                    last, failed = identity or last, 0
                    yield from _told(name, json.loads(data) if data else {}, order)
                    if name == "end":
                        return
        except NoAnswerError:
            failed += 1
            if failed == TRIES:
                raise


def _told(name: str, data: Change, order: str) -> Iterator[Change]:
    """Yield what an event of a stream says has changed; the snapshot of an order is all of it so far."""
    entries = data.get("history", []) if name == "snapshot" else [data] if name in ("status", "change") else []
    for one in entries:
        yield {"type": f"order.{one['status'].lower()}", "order_id": order, **one}
