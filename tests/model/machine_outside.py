"""The outside of the machine: a card processor that forgets keys after a day, and a mail server, in any mood."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from quadrille.gateway.http_client import NoResponseError
from quadrille.intents import TransientError

KEY_LIFE = timedelta(hours=24)
ON_ITS_WAY = timedelta(hours=1)  # no request is longer; a key outlives it
REFUSED = {"status": "refused", "code": "card_closed"}
FINE, AWAY, DEAF, LOST, SICK, SLOW, LATE = "fine", "away", "deaf", "lost", "sick", "slow", "late"
MOODS = (FINE, AWAY, DEAF, LOST, SICK, SLOW, LATE)


@dataclass(slots=True)
class Bank:
    """The processor's API as Peer calls it; a POST under a key older than a day is a new one, as with real ones.

    ``decides`` tells by order what becomes of its charge, ``refuses`` whose refund is refused; ``adrift`` are requests
    that arrive later.
    """

    clock: Callable[[], datetime]
    decides: dict[str, str] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)
    mood: str = FINE
    adrift: list[tuple[str, str, datetime]] = field(default_factory=list)
    keys: dict[str, datetime] = field(default_factory=dict)
    stored: dict[str, dict[str, str]] = field(default_factory=dict)
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)

    def call(self, _method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, bytes]:
        """Make one call; raises NoResponseError as Peer does."""
        key = headers.get("Idempotency-Key", "")
        if self.mood == AWAY:
            raise NoResponseError(self.mood, sent=False)
        if self.mood == SICK:
            return 503, b""
        if body is None:
            return self._answer(path.rpartition("/")[2])
        if self.mood == LATE:
            self.adrift.append((path, key, self.clock()))
        refused = self.mood not in (DEAF, LATE) and not self.arrives(path, key)
        if self.mood in (DEAF, LATE, LOST):
            raise NoResponseError(self.mood, sent=True)
        return (200, json.dumps(REFUSED).encode()) if refused else self._answer(key)

    def arrives(self, path: str, key: str) -> bool:
        """Carry a request out, or find that it was carried out under its key; a refused one leaves nothing."""
        begun = self.keys.get(key)
        if begun is not None and self.clock() - begun < KEY_LIFE:
            return True
        order = key.partition(":")[2]
        if path.endswith("charges"):
            self.stored[key] = {"status": "processing"}
            if self.mood != SLOW:
                self.settle(key)
        elif order in self.refuses or self.ledger["REFUND", order] >= self.ledger["CAPTURE", order]:
            return False
        else:
            self.ledger["REFUND", order] += 1
            self.stored[key] = {"status": "refunded", "kind": "VOID", "reference": f"re {order}"}
        self.keys[key] = self.clock()
        return True

    def drift(self) -> None:
        """Let the request that was sent first arrive, unless it is lost by now."""
        path, key, sent = self.adrift.pop(0)
        if self.clock() - sent < ON_ITS_WAY:
            self.arrives(path, key)

    def settle(self, key: str) -> None:
        """Decide about a charge that is processing."""
        order = key.partition(":")[2]
        if self.decides.get(order) == "declined":
            self.stored[key] = {"status": "declined", "code": "insufficient_funds"}
        else:
            self.stored[key] = {"status": "charged", "reference": f"ch {order}"}
            self.ledger["CAPTURE", order] += 1

    @property
    def processing(self) -> list[str]:
        """The keys of charges that are not decided."""
        return sorted(key for key, found in self.stored.items() if found["status"] == "processing")

    def _answer(self, key: str) -> tuple[int, bytes]:
        """Answer with what is stored under a key."""
        if found := self.stored.get(key):
            return (202 if found["status"] == "processing" else 200), json.dumps(found).encode()
        return 404, b'{"error": "not_found"}'


@dataclass(slots=True)
class PostOffice:
    """The mail server as the gateway calls it; ``taken`` counts mails by their Message-ID: kind and order."""

    mood: str = FINE
    taken: Counter[str] = field(default_factory=Counter)

    def deliver(self, recipient: str, content: bytes) -> None:
        """Take a mail; raises TransientError when nobody can tell whether it was taken."""
        if self.mood in (FINE, LOST, SLOW) and recipient:
            self.taken[content.partition(b"Message-ID: <")[2].partition(b"@")[0].decode()] += 1
        if self.mood not in (FINE, SLOW):
            raise TransientError(self.mood)
