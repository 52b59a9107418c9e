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

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}


def tell(db: Database, **query: str) -> list[dict[str, Any]]:
    """What is told of the audit."""
    context = ProcessContext(Settings.model_validate(NOWHERE), sample_service.service(), db.connect, Spans.disabled())
    [route] = audit_routes(context).values()
    document: Any = route(OpsRequest({}, query)).document
    return list(document["actions"])


def test_actions_are_read_newest_first_and_page_by_page(db: Database) -> None:
    """All of them, those of one subject, those before one; a wrong number is refused by name."""
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
    assert [one["number"] for one in tell(db, action="eat", actor="ann", since=told[1]["at"])] == [3, 2]
    assert [tell(db, action="drink"), tell(db, actor="bob"), tell(db, since="2999-01-01T00:00:00Z")] == [[], [], []]
    for wrong in (
        {"since": "yesterday"},
        {"since": "2026-11-21T09:14:03"},
        {"limit": "0"},
        {"limit": "201"},
        {"before": "x"},
        {"limit": "9" * 30},
    ):
        with pytest.raises(Problem):
            tell(db, **wrong)
