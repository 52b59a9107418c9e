"""An operator of the shop under test: replays over the ops ports, the `quadrille` command, and all that is kept."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import Any
from uuid import UUID

import psycopg

from quadrille.ids import event_id
from quadrille_cli.client import Client
from quadrille_cli.services import SERVICES
from tests.conftest import Shop

RESTING = {"PLANNED", "DONE", "PAUSED", "FAILED", "CANCELLED"}
NOT_OURS = {
    "operation", "audit", "canary", "relay_progress", "relay_recovery", "relay_notice", "position", "inbox",
    "worker_life", "suspect", "consumer_pause",
}  # fmt: skip
UNHEARD = "DELETE FROM inbox WHERE event_id = ANY(%s::uuid[]) RETURNING 1"
FORGOTTEN = (
    "DELETE FROM task WHERE key = %s RETURNING 1",
    "DELETE FROM entry WHERE order_id = %s RETURNING 1",
    "DELETE FROM payment WHERE order_id = %s RETURNING 1",
    "DELETE FROM outbox WHERE aggregateid = %s RETURNING 1",
    "DELETE FROM stream WHERE key = %s RETURNING 1",
)
TABLES = """
SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
   AND relnamespace = 'public'::regnamespace ORDER BY 1"""
# What the chassis says of itself goes on all the time: beats, and the operators' events a replay's own are among.
SELECTED = {
    "outbox": "aggregatetype <> 'ops.events' AND type <> 'canary.beat'",
    "stream": "topic <> 'ops.events' AND key NOT LIKE 'canary-%'",
    "task": "type NOT IN ('order_deadline', 'order_check')",
    "orders": "status IN ('CONFIRMED', 'CANCELLED')",  # a clock notes of others for how long they are stuck
}


class Operator:
    """Asks workers for replays and waits for what comes of them."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def ask(self, service: str, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The document a worker's ops port answers with."""
        with Client(self.shop.stack.url(f"{service}-worker")) as ops:
            return dict(ops.demand(method, path, body).body)

    def rests(self, service: str, operation: str) -> dict[str, Any]:
        """An operation that goes no further."""

        def look() -> dict[str, Any] | None:
            found = self.ask(service, "GET", f"/ops/operations/{operation}")
            return found if found["state"] in RESTING else None

        return self.shop.until(look, f"operation {operation} rests")

    def begin(self, service: str, **request: object) -> str:
        """The id of an operation that has begun."""
        return str(self.ask(service, "POST", "/ops/replays", {"reason": "a test", **request})["operation_id"])

    def dry(self, service: str, topic: str, **selection: object) -> dict[str, Any]:
        """A plan for a service, from the topic's beginning."""
        request = {"into": "dry", "topic": topic, "from": "beginning", **selection}
        planned = self.rests(service, self.begin(service, **request))
        assert planned["state"] == "PLANNED", planned
        return planned

    def live(self, planned: dict[str, Any], **more: object) -> dict[str, Any]:
        """What came of a plan."""
        name = planned["service"]
        request = {"into": "live", "plan": planned["operation_id"], "confirm": name, "rate": 100_000, **more}
        return self.rests(name, self.begin(name, **request))

    def quadrille(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of the command."""
        with self.command(*words) as running:
            out, err = running.communicate(timeout=90)
        return running.returncode, out, err

    def command(self, *words: str) -> subprocess.Popen[str]:
        """The command, running."""
        env = {**os.environ, "QUADRILLE_DATA": str(self.shop.stack.data), "COLUMNS": "200"}
        line = [sys.executable, "-m", "quadrille_cli", *words]
        return subprocess.Popen(line, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def examples(self, *words: str) -> list[list[str]]:
        """The examples a help page ends with, two or more, each as the words after `quadrille`."""
        code, page, _ = self.quadrille(*words, "--help")
        shown = [line for line in page.partition("Examples:\n")[2].splitlines() if line.strip()]
        assert (code, len(shown) >= 2) == (0, True), page
        return [shlex.split(line)[1:] for line in shown]

    def kept(self, ids: list[str]) -> dict[str, Any]:
        """Everything four databases, the processor and the mailbox keep; of the inbox what it says of these events."""
        found: dict[str, Any] = {"ledger": self.shop.ledger()}
        with Client(self.shop.stack.url("sandbox")) as outside:
            found["mails"] = outside.demand("GET", "/mail", None, {"Accept": "application/json"}).body
        for service in SERVICES:
            with psycopg.connect(self.shop.stack.database_url(service, "owner")) as db:
                for (table,) in db.execute(TABLES).fetchall():
                    if table not in NOT_OURS:
                        wanted = SELECTED.get(table, "true")
                        rows = db.execute(f"SELECT * FROM {table} WHERE {wanted}".encode())  # noqa: S608 - its own tables
                        found[f"{service}.{table}"] = sorted(map(str, rows))
                heard = db.execute(b"SELECT event_id FROM inbox WHERE event_id = ANY(%s::uuid[]) ORDER BY 1", [ids])
                found[f"{service}.inbox"] = heard.fetchall()
        return found


def totals(document: dict[str, Any]) -> dict[str, int]:
    """How many records had each verdict."""
    found: dict[str, int] = {}
    for counts in document["progress"]["verdicts"].values():
        for verdict, count in counts.items():
            found[verdict] = found.get(verdict, 0) + count
    return found


def forget(shop: Shop, order: str) -> None:
    """Put payment back to before it ever heard of an order, as a backup would."""
    heard = [UUID(r.header("ce_id")) for r in shop.records(order)]
    charges = [event_id("payment", cause, "charge_card", 0) for cause in heard]
    answers = [event_id("payment", charge, "answer", 0) for charge in charges]
    shop.sql("payment", UNHEARD, [str(one) for one in (*heard, *answers)])
    for statement in FORGOTTEN:
        shop.sql("payment", statement, order)
