"""Words for times, lengths of time, money and ids, the same wherever an order is spoken of; all times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime

TAIL = 4
WHOLE = frozenset("CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split())  # noqa: SIM905 - codes
THOUSANDTHS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
MINUTE, HOUR, DAY = 60, 3600, 86_400


def short(identity: str) -> str:
    """Return an id by its end: …9cc6."""
    return f"…{identity[-TAIL:]}"


def moment(text: str) -> datetime:
    """Return a time of a document."""
    return datetime.fromisoformat(text).astimezone(UTC)


def clock(text: str | None, now: datetime) -> str:
    """Return a time as it is read today; of another day with its date."""
    if not text:
        return "?"
    at = moment(text)
    return at.strftime("%H:%M:%S" if at.date() == now.date() else "%Y-%m-%d %H:%M:%S")


def length(seconds: float) -> str:
    """Return a length of time: 0.3 s, 18 min, 2.5 h, 3 d."""
    if seconds < MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - two digits say enough
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < 2 * DAY else f"{seconds / DAY:.0f} d"


def money(amount_minor: int | None, currency: str | None) -> str:
    """Return an amount with its currency: 25.00 EUR."""
    if amount_minor is None or not currency:
        return "an amount not yet known"
    digits = 0 if currency in WHOLE else 3 if currency in THOUSANDTHS else 2
    return f"{amount_minor / 10**digits:,.{digits}f} {currency}"


def times(count: int) -> str:
    """Return how often: once, twice, 3 times."""
    return {0: "not tried", 1: "tried once", 2: "tried twice"}.get(count, f"tried {count} times")
