"""Audit: what was done by hand, of every service's chain, as the services tell it now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.console_api import ConsoleApi
from console.domain import TAKES_PART
from console.reading import is_order

PAGE = 50
ROLES = ("worker", "api", "all")
OF_ORDERS = frozenset({"cancel", "retry-compensation", "resolve", "parked-redrive", "parked-discard"})
"""What is done on an order; of anything else the subject is an operation, a service or the intake."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Rows, newest first; who does not answer; where the next page begins, by service."""

    rows: Sequence[Row]
    silent: tuple[str, ...]
    next: str


async def read(api: ConsoleApi, subject: str = "", actor: str = "", before: str = "", limit: int = PAGE) -> AuditPage:
    """Return a page of what was done by hand, narrowed down to what it was done on and who did it."""
    cursors = _cursors(before)
    wanted = {name: value for name, value in (("subject", subject), ("actor", actor)) if value}
    names = [*TAKES_PART, "console"]
    told = await asyncio.gather(*(_ask(api, name, wanted, cursors.get(name, ""), limit) for name in names))
    found = dict(zip(names, told, strict=True))
    all_rows = [_shown(row) for rows in found.values() for row in rows or ()]
    newest = sorted(all_rows, key=lambda row: (str(row["at"]), row["number"]), reverse=True)
    page = newest[:limit]
    for row in page:
        cursors[row["service"]] = str(row["number"])
    more = len(newest) > limit or any(rows is not None and len(rows) == limit for rows in found.values())
    following = ",".join(f"{name}:{number}" for name, number in cursors.items()) if more else ""
    return AuditPage(page, tuple(name for name, rows in found.items() if rows is None), following)


async def _ask(
    api: ConsoleApi, service: str, wanted: Mapping[str, str], before: str, limit: int
) -> list[dict[str, Any]] | None:
    """Return a service's rows, by whichever of its processes answers; None if none does."""
    query = {**wanted, "limit": str(limit), **({"before": before} if before else {})}
    for process in (f"{service}-{role}" for role in ROLES):
        told = await api.neighbours.ask(api.neighbours.ops.get(process), "/ops/audit", **query)
        if isinstance(told, dict) and isinstance(rows := told.get("actions"), list):
            return [row for row in rows if isinstance(row, dict)]
    return None


def _shown(row: Row) -> dict[str, Any]:
    """Return a row with what it came to: the outcome that was kept, or what changed."""
    after = row.get("after") or {}
    outcome = after.get("outcome") or after.get("state")
    if outcome is None and "changed" in after:
        outcome = "changed" if after["changed"] else "unchanged"
    subject = str(row.get("subject") or "")
    return dict(row) | {"outcome": outcome or "–", "order": row.get("action") in OF_ORDERS and is_order(subject)}


def _cursors(before: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in before.split(",") if part)
    known = (*TAKES_PART, "console")
    return {name: number for name, _, number in pairs if name in known and number.isdecimal() and len(number) < 19}  # noqa: PLR2004 - a bigint's
