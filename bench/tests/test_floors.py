"""A floor is of what we really send: the script of pgbench is the chassis' statements, and Postgres takes it."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
from bench.floors import statements
from bench.parts import SERVICE

from quadrille_cli.stack import Stack
from quadrille_cli.stack.stack import migrate


def test_the_script_is_made_of_the_statements_of_the_chassis() -> None:
    """Each in its order and word for word, with something for each of its parameters."""
    lines = statements.script(7).splitlines()
    assert [lines[0], lines[1], lines[-1]] == [r"\set key random(1, 1000000000)", "BEGIN;", "COMMIT;"]
    for line, (statement, values) in zip(lines[2:-1], statements.VALUES.items(), strict=True):
        holes = statements.PLACEHOLDER.findall(statement)
        assert len(holes) == len(values)
        words = [re.escape(part) for part in re.split(r"%b", " ".join(statement.split()))]
        assert re.fullmatch(r"\(SELECT .+?\)".join(words) + ";", line)


def test_pgbench_runs_it(parts_of_the_stack: Callable[..., Stack]) -> None:
    """What it says it has done is in the outbox."""
    stack = parts_of_the_stack(f"postgres:{SERVICE}")
    migrate(stack, SERVICE)
    with psycopg.connect(stack.database_url(SERVICE, "owner"), autocommit=True) as db:
        db.execute("SELECT ensure_partitions(1, 1)")
        before = db.execute("SELECT count(*) FROM outbox").fetchone() or (0,)
        made = statements.Committing(stack, SERVICE, 10)
        found = made.once(transactions=20)
        after = db.execute("SELECT count(*) FROM outbox").fetchone() or (0,)
    assert found.wrong == []
    assert after[0] - before[0] == 20 * statements.CLIENTS * 10
