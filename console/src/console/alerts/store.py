"""The SQL of alerts: those that records and answers may change, read under lock and written back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from console.alerts.domain import Alert, AlertRefused, AlertTaken, SendAlert, keys_of
from quadrille import AnyRecord, Message, Rows
from quadrille.service import Tx

COLUMNS = 'alert, kind, "open", severity, number, summary, since, at, order_id, told, busy'
LOAD = f"SELECT {COLUMNS} FROM alert WHERE alert = ANY(%b) ORDER BY alert FOR UPDATE"  # noqa: S608 - of this file
ADD = f"INSERT INTO alert ({COLUMNS}) VALUES (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b::text::jsonb, %b)"  # noqa: S608 - as above
SET = """
UPDATE alert SET kind = %b, "open" = %b, severity = %b, number = %b, summary = %b, since = %b, at = %b, order_id = %b,
                 told = %b::text::jsonb, busy = %b WHERE alert = %b"""
LET_GO = """
DELETE FROM alert WHERE alert IN (SELECT alert FROM alert
 WHERE NOT "open" AND busy = '{}' AND at < clock_timestamp() - interval '7 days' ORDER BY at LIMIT 500)"""


def load(tx: Tx, messages: Sequence[Message]) -> Rows[str, Alert]:
    """Bring the alerts that these records or answers may change."""
    keys = {key for one in messages if isinstance(one, AnyRecord) for key in keys_of(one)}
    keys |= {one.alert for one in messages if isinstance(one, SendAlert | AlertTaken | AlertRefused)}
    rows = tx.execute(LOAD, [sorted(keys)]) if keys else ()
    return Rows(keys, {row[0]: _alert(row) for row in rows})


def save(tx: Tx, alerts: Rows[str, Alert]) -> None:
    """Write back what changed; what is long over is let go."""
    for alert in alerts.added:
        tx.execute(ADD, _row(alert))
    for alert in alerts.changed:
        key, *rest = _row(alert)
        tx.execute(SET, [*rest, key])
    if alerts.added:
        tx.execute(LET_GO)


def _alert(row: tuple[Any, ...]) -> Alert:
    *columns, busy = row
    return replace(Alert(*columns), busy=tuple(busy))


def _row(one: Alert) -> list[object]:
    return [
        one.alert, one.kind, one.open, one.severity, one.number, one.summary, one.since, one.at, one.order_id,
        json.dumps(one.told), [*one.busy],
    ]  # fmt: skip
