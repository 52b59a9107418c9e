"""What an operator does goes through commit, once, with its row in a chain that shows every later change."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.db.connection import connection
from quadrille.handlers import HandlerRegistry
from quadrille.ids import lock_key, uuid7
from quadrille.messages import Command, Infrastructure, Reply
from quadrille.observability.tracing import Spans
from quadrille.ops import actions
from quadrille.ops import server as ops
from quadrille.ops.actions import OperatorAction, Refusal, Success
from quadrille.service import Service, Tx
from quadrille.settings import Settings
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.database import Database
from tests.chassis.support.sample_messages import BakeCake, CakeReady
from tests.chassis.support.sample_service import Pantry, PantryStore, Rules, Unlucky

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
WHY = {"reason": "a customer called"}
CHAIN = "SELECT number, actor, action, subject, reason, before, after FROM audit ORDER BY number"


@dataclass(frozen=True, slots=True)
class EatCake(Command):
    """Eat a cake that is ready."""

    order_id: str
    spoon: Literal["SMALL", "LARGE"]
    eater: str
    remark: str = "none"


@dataclass(frozen=True, slots=True)
class CakeEaten(Reply):
    """What became of the cake."""

    order_id: str
    outcome: Literal["ACCEPTED", "NOT_READY", "UNKNOWN"]


def eat(command: EatCake, pantry: Pantry) -> tuple[CakeEaten | CakeReady | BakeCake, ...]:
    """Eat it, say so, and bake another one."""
    cake = pantry.cakes.get(command.order_id)
    if cake is None:
        return (CakeEaten(command.order_id, "UNKNOWN"),)
    if cake.state != "READY":
        return (CakeEaten(command.order_id, "NOT_READY"),)
    pantry.cakes.put(command.order_id, replace(cake, state=f"eaten by {command.eater}"))
    if command.remark == "unlucky":
        raise Unlucky(command.remark)
    if command.remark == "away":
        raise Infrastructure(command.remark)
    return CakeEaten(command.order_id, "ACCEPTED"), CakeReady(command.order_id, 1), BakeCake(command.order_id)


def look(tx: Tx, order_id: str) -> dict[str, object] | None:
    row = tx.execute("SELECT state FROM cake WHERE order_id = %b", [order_id]).fetchone()
    return {"state": row[0]} if row else None


EAT = OperatorAction(
    "eat", EatCake, look, actor="eater",
    answers={
        "ACCEPTED": Success(202, "Another one is being baked."),
        "NOT_READY": Refusal("operation-refused", "Wait until it is ready.", rule="NOT_READY", members=("state",)),
    },
)  # fmt: skip


def service() -> Service[Pantry]:
    on = HandlerRegistry("pantry", Pantry)
    on.command(eat)
    return Service(on, PantryStore(), PlainCodec(), rules=Rules())


Ask = Callable[..., tuple[int, Any]]


@contextmanager
def port(connect: Callable[[], Tx], action: OperatorAction = EAT) -> Iterator[Ask]:
    """The ops port of a pantry's worker, and a way to ask it."""
    context = ProcessContext(Settings.model_validate(NOWHERE), service(), connect, Spans.disabled())
    with ops.serve("127.0.0.1:0", "pantry", "worker", {}, routes=actions.routes([action], context, "worker")) as server:

        def ask(order_id: str, body: object) -> tuple[int, Any]:
            line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            path = f"/ops/orders/{order_id}/eat"
            line.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            answer = line.getresponse()
            document = json.loads(answer.read())
            line.close()
            return answer.status, document

        yield ask


def bake(db: Database, state: str = "READY") -> str:
    """Put a cake into the database and return its order."""
    order_id = str(uuid7())
    db.rows("INSERT INTO cake VALUES (%s, %s)", order_id, state)
    return order_id


@pytest.fixture
def kept(db: Database) -> Database:
    """The empty database, its chain too."""
    db.rows("TRUNCATE audit")
    return db


def test_a_deed_its_facts_and_its_row_are_one(kept: Database) -> None:
    """An operator's command changes the state, says events and intents, and leaves who, what, why, before and after."""
    order_id = bake(kept)
    with port(kept.connect) as ask:
        status, told = ask(order_id, {"spoon": "LARGE", **WHY})

    after = {"state": "eaten by local"}
    assert (status, told["outcome"], told["audit_number"], told["order"]) == (202, "ACCEPTED", 1, after)
    assert kept.emitted() == [("cake.ready", order_id)]
    assert kept.rows("SELECT type, key FROM task") == [("bake_cake", order_id)]
    kept_after = {"outcome": "ACCEPTED", "order": after}
    row = (1, "local", "eat", order_id, WHY["reason"], {"order": {"state": "READY"}}, kept_after)
    assert kept.rows(CHAIN) == [row]


def test_a_refused_deed_leaves_its_row_and_nothing_else(kept: Database) -> None:
    """Not ready is 409 and says what to do, unknown is 404; both are in the chain, for somebody tried."""
    order_id, nobody = bake(kept, "WANTED"), str(uuid7())
    with port(kept.connect) as ask:
        status, told = ask(order_id, {"spoon": "LARGE", **WHY})
        assert (status, told["rule"], told["state"], told["detail"]) == (409, "NOT_READY", "WANTED", EAT_LATER)
        assert ask(nobody, {"spoon": "LARGE", **WHY})[0] == 404

    assert kept.emitted() == []
    assert [(r[3], r[6]["outcome"]) for r in kept.rows(CHAIN)] == [(order_id, "NOT_READY"), (nobody, "UNKNOWN")]


EAT_LATER = "Wait until it is ready."


@pytest.mark.parametrize(
    ("command", "status", "slug"),
    [
        ({"spoon": "LARGE", "remark": "unlucky"}, 500, "internal"),
        ({"spoon": "LARGE", "remark": "away"}, 503, "dependency-unavailable"),
        ({"spoon": "FORK"}, 422, "validation-failed"),
        ({"spoon": "LARGE", "eater": "somebody else"}, 422, "validation-failed"),
        ({"spoon": "LARGE", "remark": "\u0000"}, 422, "validation-failed"),
        ({"spoon": "LARGE", "remark": "x" * 300}, 422, "validation-failed"),
        ({}, 422, "validation-failed"),
    ],
)  # fmt: skip
def test_what_does_not_happen_leaves_nothing(kept: Database, command: dict[str, str], status: int, slug: str) -> None:
    """A bug, a registry that is away, a body that is not valid: no change, no event, no row."""
    order_id = bake(kept)
    with port(kept.connect) as ask:
        found, told = ask(order_id, {**WHY, **command})

    assert (found, told["type"].rpartition("/")[2]) == (status, slug)
    assert kept.rows("SELECT state FROM cake") == [("READY",)]
    assert (kept.emitted(), kept.rows(CHAIN)) == ([], [])


def test_sixteen_at_once_eat_one_cake_once(kept: Database) -> None:
    """An action asked for by sixteen at once happens once; fifteen are refused; the chain has all of them, whole."""
    order_id, statuses = bake(kept), Counter[int]()
    with port(kept.connect) as ask:

        def one() -> None:
            statuses[ask(order_id, {"spoon": "SMALL", **WHY})[0]] += 1

        threads = [threading.Thread(target=one) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert statuses == {202: 1, 409: 15}
    assert kept.emitted() == [("cake.ready", order_id)]
    assert [row[0] for row in kept.rows(CHAIN)] == list(range(1, 17))
    with kept.connect() as tx:
        assert audit.flaw(tx) is None


def test_without_a_database_nothing_happens_and_that_is_said(kept: Database) -> None:
    """A database that does not answer stored nothing, and that is said; one that goes meanwhile may have."""
    with port(connection("host=127.0.0.1 port=1 connect_timeout=1")) as ask:
        status, told = ask(str(uuid7()), {"spoon": "LARGE", **WHY})
    assert (status, told["type"].rpartition("/")[2], told["retryable"]) == (503, "dependency-unavailable", True)

    def goes(tx: Tx, order_id: str) -> dict[str, object] | None:
        kept.rows("SELECT pg_terminate_backend(%s)", tx.info.backend_pid)
        return look(tx, order_id)

    with port(kept.connect, replace(EAT, look=goes)) as ask:
        status, told = ask(bake(kept), {"spoon": "LARGE", **WHY})
    assert (status, told["type"].rpartition("/")[2]) == (503, "outcome-unknown")


def test_an_order_held_by_another_is_not_waited_for_without_end(
    kept: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another transaction holds the order, an action is refused in time, to be asked again: nothing is stored."""
    monkeypatch.setattr(actions, "PATIENCE", "SET LOCAL lock_timeout = '200ms'")
    order_id = bake(kept)
    with port(kept.connect) as ask, kept.connect() as other:
        with other.transaction():
            other.execute(actions.LOCK_KEY, [lock_key(order_id)])
            status, told = ask(order_id, {"spoon": "LARGE", **WHY})
        assert (status, told["type"].rpartition("/")[2]) == (503, "dependency-unavailable")
        assert kept.rows(CHAIN) == []
        assert ask(order_id, {"spoon": "LARGE", **WHY})[0] == 202


def test_an_outcome_nobody_answers_fails_the_start(kept: Database) -> None:
    """An action whose reply may come to something without an answer, or whose answer is no problem type, is refused."""
    context = ProcessContext(Settings.model_validate(NOWHERE), service(), kept.connect, Spans.disabled())
    for answers in ({"ACCEPTED": EAT.answers["ACCEPTED"]}, {**EAT.answers, "NOT_READY": Refusal("no-such-slug")}):
        with pytest.raises(TypeError, match="eat: EatCake may come to"):
            actions.routes([replace(EAT, answers=answers)], context, "worker")


FORGED = "UPDATE audit SET reason = 'x', hash = " + audit.HASH.replace("reason", "'x'::text") + " WHERE number = 3"  # noqa: S608 - constants
EDITS = [
    ("UPDATE audit SET reason = 'none of your business' WHERE number = 3", "audit row 3 was changed"),
    ("UPDATE audit SET actor = 'somebody' WHERE number = 1", "audit row 1 was changed"),
    ("UPDATE audit SET after = NULL WHERE number = 5", "audit row 5 was changed"),
    ("UPDATE audit SET at = at + interval '1 microsecond' WHERE number = 2", "audit row 2 was changed"),
    ("DELETE FROM audit WHERE number = 4", "audit row 4 is missing: row 5 stands in its place"),
    ("DELETE FROM audit WHERE number = 1", "audit row 1 is missing: row 2 stands in its place"),
    (FORGED, "audit row 4 does not follow the one before it"),
]


@pytest.mark.parametrize(("edit", "named"), EDITS, ids=[named for _, named in EDITS])
def test_a_changed_chain_names_its_first_bad_row(kept: Database, edit: str, named: str) -> None:
    """Whatever is edited, taken out, or edited with its hash made anew: the first row that is wrong is named."""
    with kept.connect() as tx:
        for number in range(1, 7):
            with tx.transaction():
                action = audit.Action("local", "eat", f"order {number}", "ü\\\"'", None, {"a": [1.5, "ü", None]})
                assert audit.record(tx, action) == number
        assert audit.flaw(tx) is None
        kept.rows(edit)
        assert audit.flaw(tx) == named


def test_the_app_can_only_add_to_the_chain(kept: Database) -> None:
    """The role the services run as may neither change nor remove a row."""
    with kept.connect() as tx:
        rights = "SELECT has_table_privilege('app', 'audit', r) FROM unnest(%b::text[]) r"
        found = tx.execute(rights, [["INSERT", "UPDATE", "DELETE", "TRUNCATE"]])
        assert [row[0] for row in found] == [True, False, False, False]
