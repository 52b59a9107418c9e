"""The end of an audit chain cannot be cut off, nor a chain be written anew, without a seal that tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from quadrille.db.audit import HASH
from tests.conftest import Shop
from tests.stack.test_operators import Command

ALL = "number, at, actor, action, subject, reason, before, after, previous, hash"
KEEP = f"CREATE TABLE kept AS SELECT {ALL} FROM audit"  # noqa: S608 - of this file
BACK = (
    "DELETE FROM audit",
    f"INSERT INTO audit ({ALL}) SELECT {ALL} FROM kept ORDER BY number",  # noqa: S608 - of this file
    "DROP TABLE kept",
)
CUT = "DELETE FROM audit WHERE number = (SELECT max(number) FROM audit)"
ANEW = f"UPDATE audit SET reason = 'nothing to see' WHERE number = (SELECT max(number) FROM audit); UPDATE audit SET hash = {HASH} WHERE number = (SELECT max(number) FROM audit)"  # noqa: E501, S608 - of this file
SERVICE = "payment"


@pytest.fixture
def quadrille(spoilt: Shop) -> Command:
    """The command, on the stack that is spoilt."""
    return Command(spoilt)


def heads(shop: Shop) -> list[str]:
    """The heads that a service has said."""
    return [body["head"] for kind, body in shop.told("ops.events", SERVICE) if kind == "audit.sealed"]


@contextmanager
def spoiling(shop: Shop, *statements: str) -> Iterator[None]:
    """A chain that was changed by hand for a while, by whoever owns the table."""
    with psycopg.connect(shop.stack.database_url(SERVICE, "owner"), autocommit=True) as db:
        db.execute(KEEP.encode())
        for statement in statements:
            db.execute(statement.encode())
        yield
        with db.transaction():
            for statement in BACK:
                db.execute(statement.encode())


@pytest.fixture
def sealed(spoilt: Shop) -> str:
    """The head of a chain to which something was just added, once it is sealed."""
    order = spoilt.submit([("SKU-TEA", 1)])
    spoilt.ended(order)
    body: dict[str, Any] = {"reason": "a test"}
    spoilt.ask("payment-worker", "POST", "/ops/consumers/pause", body)
    spoilt.ask("payment-worker", "POST", "/ops/consumers/resume", body)
    [(head,)] = spoilt.sql(SERVICE, "SELECT encode(hash, 'hex') FROM audit ORDER BY number DESC LIMIT 1")
    spoilt.until(lambda: head in heads(spoilt), "the head is sealed")
    return str(head)


def test_a_chain_that_grew_is_sealed_and_whole(spoilt: Shop, quadrille: Command, sealed: str) -> None:
    """A head is said once, however long it stays so; all chains are whole, and the help's examples run."""
    assert heads(spoilt).count(sealed) == 1
    ran = [quadrille.run(*words) for words in quadrille.examples("audit-log", "verify")]

    assert [code for code, _, _ in ran] == [0, 0], ran
    assert "payment" in ran[0][1]
    assert "whole" in ran[0][1]


@pytest.mark.parametrize("how", [CUT, ANEW], ids=["cut off", "written anew"])
def test_a_chain_that_lost_its_head_is_found(spoilt: Shop, quadrille: Command, sealed: str, how: str) -> None:
    """The end cut off, or the last row written anew with its hash, is a whole chain by itself: its seal tells."""
    with spoiling(spoilt, *how.split("; ")):
        assert quadrille.run("audit", "verify", "--service", SERVICE)[0] == 0
        code, out, err = quadrille.run("audit-log", "verify")
        assert (code, sealed in out, "payment" in out) == (1, True, True), out + err
    if how == CUT:  # what was written anew may have been sealed meanwhile, and that head is in no chain any more
        assert quadrille.run("audit-log", "verify")[0] == 0
