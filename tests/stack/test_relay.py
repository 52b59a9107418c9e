"""A row that a relay may not publish, and what a person does about it: by command, on the whole stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid

import psycopg

from quadrille.ids import uuid7
from tests.conftest import Shop

TEA = [("SKU-TEA", 1)]
FOREIGN = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent)
VALUES (%s, 'order.events', %s, 'notification.sent', 1, 'x', %s, '')"""


def run(shop: Shop, *words: str) -> tuple[int, str]:
    """Exit code of the command, and all it printed."""
    env = {**os.environ, "QUADRILLE_DATA": str(shop.stack.data)}
    line = [sys.executable, "-m", "quadrille_cli", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def held(shop: Shop) -> list[str]:
    """Return the ids that notification's relay holds."""
    found = json.loads(run(shop, "relay", "status", "--service", "notification", "-o", "json")[1])
    return [row["id"] for row in found[0]["held"] if row["state"] == "HELD"]


def test_a_refused_row_is_named_held_and_buried_by_command(shop: Shop) -> None:
    """Orders go on meanwhile; buried, it is told on ops.events with who and why, and kept in the audit."""
    row, key, why = str(uuid7()), str(uuid.uuid4()), f"written by a script {uuid.uuid4().hex[:8]}"
    with psycopg.connect(shop.stack.database_url("notification", "owner")) as owner:
        owner.execute(FOREIGN.encode(), [row, key, uuid7()])
    shop.until(lambda: row in held(shop), "it is held")
    code, said = run(shop, "relay", "status", "--service", "notification")
    told_of = "".join(said.split())  # the note is folded
    assert (row in told_of, key in told_of) == (True, True), said
    assert shop.ended(shop.submit(TEA))["status"] == "CONFIRMED"

    assert run(shop, "relay", "bury", row, "--reason", " ")[0] == 2
    assert run(shop, "relay", "bury", str(uuid.uuid4()), "--reason", "x")[0] == 5
    code, said = run(shop, "relay", "bury", row, "--reason", why)
    assert (code, "buried: notification.sent of order.events" in said) == (0, True), said
    shop.until(lambda: row not in held(shop), "it is buried")
    assert run(shop, "relay", "bury", row, "--service", "notification", "--reason", "again")[0] == 6

    def told() -> bool:
        facts = [body for kind, body in shop.told("ops.events", "notification") if kind == "finding.raised"]
        return any(row in one["detail"] and why in one["detail"] for one in facts)

    shop.until(told, "all know of it")
    kept = json.loads(run(shop, "audit", "list", "--service", "notification", "--limit", "9", "-o", "json")[1])
    assert ("relay.bury", why) in [(one["action"], one["reason"]) for one in kept]


def test_what_waits_for_nobody_is_told_so(shop: Shop) -> None:
    """No database was restored: the list is empty, a loss that is none is refused, and who is meant must be said."""
    assert run(shop, "relay", "restore") == (0, "")
    assert run(shop, "relay", "restore", "--declare-loss", "--reason", "x")[0] == 2
    assert run(shop, "relay", "restore", "--service", "payment", "--declare-loss", "--reason", "x")[0] == 6
    assert run(shop, "republish", "--reason", "x")[0] == 2
    assert run(shop, "republish", "--since", "1h", "--service", "shop", "--reason", "x")[0] == 2


def test_an_order_is_sent_once_more_by_command(shop: Shop) -> None:
    """All four outboxes send what they hold of it: byte for byte, and nothing takes effect a second time."""
    order = shop.submit(TEA)
    shop.ended(order)
    shop.until(shop.all_read, "all is read")
    before, effects = shop.records(order), shop.effects(order)
    code, said = run(shop, "republish", "--order", order, "--reason", "deleted by hand")
    assert (code, said.count("events sent once more")) == (0, 4), said
    again = shop.records(order)
    assert len(again) == 2 * len(before)
    assert {(r.topic, r.header("id"), r.value) for r in again} == {(r.topic, r.header("id"), r.value) for r in before}
    shop.until(shop.all_read, "all is read")
    assert shop.effects(order) == effects
