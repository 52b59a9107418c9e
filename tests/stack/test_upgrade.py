"""Data of another version: an older one is migrated by `up` with its rows, a newer one is refused by name and kept."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from quadrille.db import migrations
from quadrille.ids import uuid7
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import PartFailed, Stack
from quadrille_cli.stack.stack import migrate
from quadrille_cli.testing import Start

BEFORE = {"order": "0007", "inventory": "0004", "payment": "0005", "notification": "0004"}
"""Each service's last revision whose table of tasks was called ``agenda``."""

ROW = "INSERT INTO agenda VALUES ('{id}', 'o-1', 'x', '{{}}', now(), now(), 3, NULL, NULL, 'trace')"


@pytest.fixture
def databases(new_stack: Start) -> Stack:
    """The services' databases, each as the last program with an ``agenda`` left it."""
    stack = new_stack(parts={f"postgres:{service}" for service in SERVICES})
    stack.start()
    for service in SERVICES:
        migrations.upgrade(service, stack.database_url(service, "owner"), BEFORE[service])
    return stack


def sql(stack: Stack, service: str, statement: str) -> list[tuple[object, ...]]:
    """Run a statement as the tables' owner."""
    with psycopg.connect(stack.database_url(service, "owner")) as db:
        found = db.execute(statement.encode())
        return found.fetchall() if found.description else []


def test_every_service_is_brought_up_to_date_with_its_rows(databases: Stack) -> None:
    """What a service had still to do when it was stopped is there, to the letter, after the step of `up`; twice too."""
    for service in SERVICES:
        sql(databases, service, ROW.format(id=uuid7()))
        before = sql(databases, service, "SELECT * FROM agenda")

        assert (migrate(databases, service), migrate(databases, service)) == ("", "")

        after = sql(databases, service, "SELECT * FROM task")
        assert [row[: len(before[0])] for row in after] == before, "columns that came later stand behind"
        assert len(before) == 1


def test_data_of_a_newer_version_is_refused_by_name_and_kept(databases: Stack) -> None:
    """What a program of next year has migrated is named with both versions and a way out; not a row is touched."""
    sql(databases, "payment", "UPDATE alembic_version SET version_num = '2027_audit'")

    newest = max(file.stem[:4] for file in Path("services/payment/migrations/versions").glob("0*.py"))

    with pytest.raises(PartFailed) as refused:
        migrate(databases, "payment")

    assert refused.value.part == "migrate payment"
    known = f"payment's database is of version 2027_audit; the newest this program knows is {newest}"
    assert known in refused.value.cause
    assert "run the version of Quadrille that made it, or begin beside it: quadrille up --data DIR" in refused.value.fix
    assert sql(databases, "payment", "SELECT * FROM alembic_version") == [("2027_audit",)]
    assert sql(databases, "payment", "SELECT count(*) FROM agenda") == [(0,)]
