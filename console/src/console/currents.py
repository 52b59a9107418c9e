"""Currents: of each service what it has still to take, to publish and to ask outside, as its own ports tell it now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console.console_api import ConsoleApi
from console.domain import TAKES_PART
from console.neighbours import Neighbours

BREAKER = {0: "closed", 1: "half open", 2: "open"}
UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
SLOT_WELL = "reserved", "extended"


@dataclass(frozen=True, slots=True)
class Current:
    """One service now; what nobody tells is None, and ``silent`` names who does not answer."""

    service: str
    paused: str | None
    lag: int | None
    unpublished: int | None
    unpublished_seconds: float | None
    relay: str | None
    slot: str | None
    wal_kept: str | None
    canary_seconds: float | None
    breaker: str | None
    silent: tuple[str, ...]

    @property
    def stands(self) -> bool:
        """Whether something of it does not flow."""
        well = self.relay in ("streaming", "standby") and self.slot in SLOT_WELL
        return bool(self.paused or self.silent) or not well or self.breaker not in (None, BREAKER[0])


async def currents(api: ConsoleApi) -> list[Current]:
    """Return how all services flow."""
    return list(await asyncio.gather(*(_current(api.neighbours, name) for name in TAKES_PART)))


async def _current(all_: Neighbours, service: str) -> Current:
    worker, relay = (all_.ops.get(f"{service}-{role}") for role in ("worker", "relay"))
    told, consumers, status = await asyncio.gather(
        all_.measured(worker), all_.ask(worker, "/ops/consumers"), all_.ask(relay, "/ops/relay")
    )
    slot: Mapping[str, Any] = (status or {}).get("slot") or {}
    breaker = told.get("quadrille_breaker_state")
    return Current(
        service,
        str(consumers["cause"]) if consumers and consumers.get("paused") else None,
        _whole(told.get("quadrille_consumer_lag_records")),
        _whole(told.get("quadrille_outbox_unpublished_rows")),
        told.get("quadrille_outbox_unpublished_age_seconds"),
        str(status["state"]) if status else None,
        (str(slot["wal_status"]) if slot else "no slot") if status else None,
        _size(slot.get("wal_kept_bytes")),
        status.get("canary_age_seconds") if status else None,
        None if breaker is None else BREAKER.get(int(breaker), "unknown"),
        tuple(name for name, answer in (("worker", consumers), ("relay", status)) if answer is None),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _size(count: object) -> str | None:
    """Return bytes as people read them."""
    if not isinstance(count, int):
        return None
    return next((f"{count / size:.1f} {unit}" for unit, size in UNITS if count >= size), f"{count} B")
