"""What was done by hand is read back newest first: who, what, on what, why, before and after."""

from __future__ import annotations

from typing import Any

import pytest

from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.observability.tracing import Spans
from quadrille.ops.audit_log import audit_routes
from quadrille.ops.routes import OpsRequest
from quadrille.settings import Settings
from quadrille.web.problems import Problem
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database

WRONG: tuple[dict[str, str], ...] = (
    {"limit": "0"}, {"limit": "201"}, {"before": "x"}, {"limit": "9" * 30}, {"since": "yesterday"},
    {"since": "2026-11-21T09:14:03"},
)  # fmt: skip
NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}


def asked(db: Database, path: str, **query: str) -> dict[str, Any]:
    """What a route of the audit tells."""
    context = ProcessContext(Settings.model_validate(NOWHERE), sample_service.service(), db.connect, Spans.disabled())
    [route] = [found for (_, pattern), found in audit_routes(context).items() if pattern.partition("?")[0] == path]
    document: Any = route(OpsRequest({}, query)).document
    return dict(document)


def tell(db: Database, **query: str) -> list[dict[str, Any]]:
    """What is told of the audit."""
    return list(asked(db, "/ops/audit", **query)["actions"])


def test_actions_are_read_newest_first_and_page_by_page(db: Database) -> None:
    """All of them, those of one subject or actor, those before one; a wrong number is refused by name."""
    db.rows("TRUNCATE audit")
    with db.connect() as tx:
        for number, subject in enumerate(("a", "b", "a"), 1):
            after = {"outcome": f"{number}"}
            audit.record(tx, audit.Action("ann", "eat", subject, "hungry", {"state": "READY"}, after))

    told = tell(db)

    assert [(one["number"], one["subject"], one["after"]["outcome"]) for one in told] == [
        (3, "a", "3"),
        (2, "b", "2"),
        (1, "a", "1"),
    ]
    assert (told[0]["actor"], told[0]["action"], told[0]["reason"]) == ("ann", "eat", "hungry")
    assert told[0]["before"] == {"state": "READY"}
    assert [one["number"] for one in tell(db, subject="a")] == [3, 1]
    assert [one["number"] for one in tell(db, before="3", limit="1")] == [2]
    assert ([one["number"] for one in tell(db, subject="a", actor="ann")], tell(db, actor="bob")) == ([3, 1], [])
    assert [one["number"] for one in tell(db, action="eat", actor="ann", since=told[1]["at"])] == [3, 2]
    assert [tell(db, action="drink"), tell(db, actor="bob"), tell(db, since="2999-01-01T00:00:00Z")] == [[], [], []]
    for wrong in WRONG:
        with pytest.raises(Problem):
            tell(db, **wrong)


def test_a_row_that_was_changed_is_told(db: Database) -> None:
    """The chain is verified on demand: whole with so many rows, or broken at this one."""
    db.rows("TRUNCATE audit")
    with db.connect() as tx:
        for subject in ("a", "b"):
            audit.record(tx, audit.Action("ann", "eat", subject, "hungry"))

    assert asked(db, "/ops/audit/verify") == {"service": "pantry", "actions": 2, "flaw": None}
    db.rows("UPDATE audit SET reason = 'not hungry' WHERE number = 1")
    assert asked(db, "/ops/audit/verify")["flaw"] == "audit row 1 was changed"
