"""Repairs: how what was found is now, looked at anew in every service, and what would mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from console import reads
from console.console_api import ConsoleApi
from console.findings.domain import Repair
from console.findings.reconciler import SkippedError


class Looked(NamedTuple):
    """How a finding is now (OPEN, GONE, MOVING or UNKNOWN), why, and the call that repairs it."""

    now: str
    why: str = ""
    repair: dict[str, Any] | None = None


async def look(api: ConsoleApi, row: Mapping[str, Any]) -> Looked:
    """Look at a finding's order in every service, by a watermark of its own."""
    if api.reconciler is None:
        return Looked("UNKNOWN", "QUADRILLE_OPS does not name the worker of every service")
    try:
        seen = await run_in_threadpool(api.reconciler.look, row["order_id"])
    except SkippedError as skipped:
        return Looked("UNKNOWN", str(skipped))
    if seen.moving:
        return Looked("MOVING", "; ".join(seen.moving))
    so = next((one for one in seen.discrepancies if one.kind == row["kind"]), None)
    return Looked("GONE") if so is None else Looked("OPEN", *await _repair(api, row["order_id"], so.repair))


async def _repair(api: ConsoleApi, order_id: str, repair: Repair | None) -> tuple[str, dict[str, Any] | None]:
    """Return why there is no repair, or the repair."""
    if repair is None:
        return "No event that was said would mend it: a person has to decide.", None
    place = await api.read(reads.place_of, order_id, repair.event)
    if place is None:
        return f"Its {repair.event} is not kept here any more, or was never said.", None
    path = f"/ops/orders/{order_id}/hear-again"
    return "", {"process": f"{repair.service}-worker", "path": path, "body": dict(place)}
