"""The processor's own truth: definite answers under their keys for ever, and the money that moved, numbered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal, TypeAlias, cast

from quadrille_sandbox.journal import Journal, Record

Kind: TypeAlias = Literal["CAPTURE", "VOID", "REFUND", "DECLINED", "PENDING"]
MONEY = ("CAPTURE", "VOID", "REFUND")
PUBLIC = ("number", "at", "kind", "key", "order_id", "amount_minor", "currency", "reference")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal."""

    kind: Kind
    at: float  # Unix seconds
    key: str
    order_id: str
    amount_minor: int
    currency: str
    payment_token: str = ""
    reference: str = ""
    code: str = ""
    charge_key: str = ""

    def record(self) -> Record:
        """Return the entry as the journal and the ledger show it: empty fields left out, time in RFC 3339."""
        shown: Record = {f: v for f in _NAMES if (v := getattr(self, f)) or f == "amount_minor"}
        return {**shown, "at": rfc3339(self.at)}


_NAMES = tuple(field.name for field in fields(Entry))


def rfc3339(at: float) -> str:
    """Return Unix seconds as UTC text with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Ledger:
    """Entries in memory, every one of them in the journal first."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        """Replay the journal; ``clock`` returns Unix seconds."""
        self._journal = journal
        self.clock = clock
        self.charges: dict[str, Entry] = {}  # CAPTURE or DECLINED by key
        self.refunds: dict[str, Entry] = {}
        self.pending: dict[str, Entry] = {}
        self._returned: dict[str, int] = {}  # minor units given back, by the charge's key
        self._moved: list[Entry] = []
        for _, record in journal.replay():
            self._apply(_entry(record))

    def add(self, entry: Entry) -> Entry:
        """Journal an entry, and only then let others see it; raises OSError."""
        self._journal.append(entry.record())
        self._apply(entry)
        return entry

    def left(self, charge: Entry) -> int:
        """Return what can still be given back of a charge, in minor units."""
        return charge.amount_minor - self._returned.get(charge.key, 0)

    def lines(self, order_id: str = "", after: int = 0) -> Iterator[Record]:
        """Yield the lines that moved money up to now, numbered from 1, oldest first."""
        for position in range(max(after, 0), len(self._moved)):
            if not order_id or self._moved[position].order_id == order_id:
                shown = {"number": position + 1, **self._moved[position].record()}
                yield {name: shown[name] for name in PUBLIC}

    def _apply(self, entry: Entry) -> None:
        match entry.kind:
            case "PENDING":
                self.pending[entry.key] = entry
            case "CAPTURE" | "DECLINED":
                self.pending.pop(entry.key, None)
                self.charges[entry.key] = entry
            case "VOID" | "REFUND":
                self.refunds[entry.key] = entry
                self._returned[entry.charge_key] = self._returned.get(entry.charge_key, 0) + entry.amount_minor
        if entry.kind in MONEY:
            self._moved.append(entry)


def _entry(record: Record) -> Entry:
    def text(name: str) -> str:
        return sys.intern(str(record.get(name, "")))  # a few values for 100,000 entries

    return Entry(
        kind=cast("Kind", text("kind")),
        at=datetime.fromisoformat(str(record["at"])).timestamp(),
        key=str(record["key"]),
        order_id=str(record["order_id"]),
        amount_minor=int(str(record["amount_minor"])),
        currency=text("currency"),
        payment_token=text("payment_token"),
        reference=str(record.get("reference", "")),
        code=text("code"),
        charge_key=str(record.get("charge_key", "")),
    )
