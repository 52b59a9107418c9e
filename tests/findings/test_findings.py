"""What the services do not agree about is found, told, mended by what was said, and closes; traffic alone is not."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from console.findings.domain import Kind
from quadrille_cli.client import Client, Reply
from quadrille_cli.loadtest.run import Plan, measure
from quadrille_cli.services import SERVICES
from tests.conftest import Shop, away
from tests.stack.test_operators import Command

TEA = [("SKU-TEA", 2)]
MANY = 400


def spoil(shop: Shop, service: str, *statements: str, order: str) -> None:
    """Change a service's rows of an order by hand, as no program of ours ever does."""
    with psycopg.connect(shop.stack.database_url(service, "owner")) as db:
        for statement in statements:
            changed = db.execute(statement.encode(), {"order": order}).rowcount
            assert changed == 1, (statement, changed)


def findings(shop: Shop, *, closed: bool = False) -> list[dict[str, Any]]:
    """What the console tells of findings."""
    path = f"/v1/findings?limit=200&closed={str(closed).lower()}"
    return list(shop.ask("console", "GET", path)["findings"])


def the_round(shop: Shop) -> dict[str, Any]:
    """How the last round went."""
    return shop.ask("console", "GET", "/v1/findings")["round"] or {}


def found(shop: Shop, order: str, kind: Kind) -> dict[str, Any]:
    """The finding of this kind about an order, as soon as there is one."""

    def look() -> dict[str, Any] | None:
        return next((one for one in findings(shop) if (one["order_id"], one["kind"]) == (order, kind)), None)

    return shop.until(look, f"{kind} of {order} is found")


def closed(shop: Shop, finding_id: str) -> dict[str, Any]:
    """The finding, as soon as it is closed and that is said."""

    def look() -> dict[str, Any] | None:
        told = next(one for one in findings(shop, closed=True) if one["finding_id"] == finding_id)
        return told if told["closed_at"] and told["said"] else None

    return shop.until(look, f"{finding_id} is closed")


def confirmed(shop: Shop) -> str:
    """An order that is confirmed, and whose customer was told."""
    order = shop.submit(TEA)
    shop.ended(order)
    shop.until(lambda: shop.mails(order), "its mail is sent")
    shop.until(lambda: known(shop, order), "the console has heard of it")
    return order


def known(shop: Shop, order: str) -> bool:
    """Whether the console knows that an order is confirmed."""
    with Client(shop.stack.url("console")) as api:
        answer = api.ask("GET", f"/v1/orders/{order}/timeline")
    return answer.status == 200 and answer.body["status"] == "CONFIRMED"


def cancelled(shop: Shop) -> str:
    """An order that was confirmed, then cancelled and undone."""
    order = confirmed(shop)
    shop.cancel(order)
    shop.until(lambda: shop.order(order)["status"] == "CANCELLED", f"{order} is cancelled")
    shop.until(lambda: len(shop.mails(order)) > 1, "its mail is sent")
    return order


def nobodys(_: Shop) -> str:
    """An order that nobody placed."""
    return "01a1fd62-57f0-7eeb-be96-" + uuid.uuid4().hex[:12]


class Spoilt(NamedTuple):
    """A kind of discrepancy: of which order, what is done by hand to which service, whether it can be mended."""

    kind: Kind
    of: Callable[[Shop], str]
    service: str
    by: tuple[str, ...]
    mended: bool = False
    mends: tuple[str, ...] = ()
    """Where it cannot be mended by what was said: what takes it back by hand."""


LEVEL = "UPDATE level SET {} WHERE sku = 'SKU-TEA'"
CASES = (
    Spoilt(
        Kind.HOLD_WITHOUT_ORDER, nobodys, "inventory",
        ("INSERT INTO hold VALUES (%(order)s, '{SKU-TEA}', '{0}', 'RESERVED')",),
        mends=("DELETE FROM hold WHERE order_id = %(order)s",),
    ),
    Spoilt(
        Kind.CHARGE_WITHOUT_ORDER, nobodys, "payment",
        ("INSERT INTO entry VALUES ('k-' || %(order)s, %(order)s, 'CAPTURE', 5, 'EUR', 'none', now())",),
        mends=("DELETE FROM entry WHERE order_id = %(order)s",),
    ),
    Spoilt(
        Kind.NOTICE_WITHOUT_ORDER, nobodys, "notification",
        ("INSERT INTO notice VALUES (%(order)s, 'confirmed', 'SENT', false, NULL)",),
        mends=("DELETE FROM notice WHERE order_id = %(order)s",),
    ),
    Spoilt(
        Kind.CONFIRMED_WITHOUT_HOLD, confirmed, "inventory",
        ("UPDATE hold SET state = 'REJECTED' WHERE order_id = %(order)s",),
        mends=("UPDATE hold SET state = 'COMMITTED' WHERE order_id = %(order)s",),
    ),
    Spoilt(
        Kind.CONFIRMED_NOT_COMMITTED, confirmed, "inventory",
        ("UPDATE hold SET state = 'RESERVED' WHERE order_id = %(order)s",
         LEVEL.format("held = held + 2, committed = committed - 2")),
        mended=True,
    ),
    Spoilt(
        Kind.CONFIRMED_WITHOUT_CHARGE, confirmed, "payment",
        ("UPDATE payment SET state = 'SKIPPED' WHERE order_id = %(order)s",),
        mends=("UPDATE payment SET state = 'CHARGED' WHERE order_id = %(order)s",),
    ),
    Spoilt(
        Kind.CHARGE_DIFFERS, confirmed, "payment",
        ("UPDATE entry SET amount_minor = amount_minor + 1 WHERE order_id = %(order)s",),
        mends=("UPDATE entry SET amount_minor = amount_minor - 1 WHERE order_id = %(order)s",),
    ),
    Spoilt(
        Kind.CANCELLED_NOT_RELEASED, cancelled, "inventory",
        ("UPDATE hold SET state = 'COMMITTED' WHERE order_id = %(order)s",
         LEVEL.format("available = available - 2, committed = committed + 2")),
        mended=True,
    ),
    Spoilt(
        Kind.CANCELLED_NOT_REFUNDED, cancelled, "payment",
        ("UPDATE payment SET state = 'CHARGED' WHERE order_id = %(order)s",
         "DELETE FROM entry WHERE order_id = %(order)s AND kind <> 'CAPTURE'"),
        mended=True,
    ),
    Spoilt(
        Kind.ENDED_WITHOUT_NOTICE, confirmed, "notification",
        ("DELETE FROM notice WHERE order_id = %(order)s AND kind = 'confirmed'",),
        mended=True,
    ),
    Spoilt(
        Kind.ORDER_BEHIND, confirmed, "order",
        ("""UPDATE orders SET states = states || '{"inventory": "RESERVED"}' WHERE order_id = %(order)s::uuid""",),
        mended=True,
    ),
    Spoilt(
        Kind.ORDER_DISAGREES, cancelled, "order",
        ("""UPDATE orders SET states = states || '{"inventory": "REJECTED"}' WHERE order_id = %(order)s::uuid""",),
        mends=(
            """UPDATE orders SET states = states || '{"inventory": "RELEASED"}' WHERE order_id = %(order)s::uuid""",
        ),
    ),
)  # fmt: skip


@pytest.fixture
def quadrille(spoilt: Shop) -> Command:
    """The command, on the stack that is spoilt."""
    return Command(spoilt)


def heard_again(shop: Shop, service: str, order: str, **changed: object) -> Reply:
    """Ask a service to hear an event of an order again, with what is ``changed`` of the request."""
    with Client(shop.stack.url(f"{service}-worker")) as ops:
        return ops.ask("POST", f"/ops/orders/{order}/hear-again", {"reason": "a test", **changed})


def place(shop: Shop, order: str, kind: str) -> dict[str, Any]:
    """Where an order's event lies."""
    record = next(one for one in shop.records(order) if one.type == kind)
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset,
            "event_id": record.header("ce_id")}  # fmt: skip


def test_every_kind_has_its_case() -> None:
    """Whatever the reconciler may find is spoilt by hand here."""
    assert sorted(case.kind for case in CASES) == sorted(Kind)


def test_traffic_under_load_is_no_finding(spoilt: Shop) -> None:
    """Orders of every kind under load are looked at while they move; none is ever found, and all are judged."""
    seen: list[dict[str, Any]] = []
    plan = Plan(MANY, 60.0, {"ok": 0.5, "declined": 0.2, "out_of_stock": 0.1, "cancel": 0.2}, seed=14)

    run = measure(spoilt.stack, plan, lambda _: seen.append(the_round(spoilt)))
    assert len(run.ends) == len(run.sent) == MANY
    spoilt.until(spoilt.all_read, "all is read")
    since = the_round(spoilt)["judged_at"]
    rest = spoilt.until(
        lambda: (last := the_round(spoilt))["judged_at"] > since and not last["moving"] and last, "all is judged"
    )

    assert rest["judged"] >= MANY
    assert any(one.get("moving") for one in seen), "no round looked at orders that moved: the load proves nothing"
    assert findings(spoilt, closed=True) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.value)
def test_what_is_spoilt_by_hand_is_found_said_and_mended(spoilt: Shop, quadrille: Command, case: Spoilt) -> None:
    """Each kind is found with its evidence and said; it is mended by what was said, or refused; then it closes."""
    order = case.of(spoilt)
    before = spoilt.ledger(order)
    spoil(spoilt, case.service, *case.by, order=order)

    one = found(spoilt, order, case.kind)
    assert one["repairable"] is case.mended
    shown = "\n".join(one["evidence"])
    assert all(f"{service}: " in shown for service in SERVICES)
    if case.of is not nobodys:
        records = [record for record in spoilt.records(order) if record.type == "order.placed"]
        assert f"@{records[0].offset}" in shown

    code, out, err = quadrille.run("findings", "repair", one["finding_id"], "--reason", "a test")
    if case.mended:
        assert code == 0, out + err
        assert "has heard" in out
    else:
        assert (code, "NOT_REPAIRABLE" in err) == (6, True), out + err
        spoil(spoilt, case.service, *case.mends, order=order)

    ended = closed(spoilt, one["finding_id"])
    assert ended["said"]
    said = [(kind, body) for kind, body in spoilt.told("ops.events", "order")
            if body.get("finding_id") == one["finding_id"]]  # fmt: skip
    assert [kind for kind, _ in said] == ["finding.raised", "finding.closed"]
    assert {body["order_id"] for _, body in said} == {order}
    assert (said[0][1]["expected"], said[0][1]["found"]) == (one["expected"], one["found"])
    assert said[0][1]["evidence"]
    assert spoilt.ledger(order) == before, "the processor was asked for money, or gave some back twice"

    code, out, err = quadrille.run("findings", "repair", one["finding_id"][-8:], "--reason", "a test")
    assert (code, "NOT_NEEDED" in err) == (6, True), out + err


def test_what_is_mended_is_kept_with_its_reason(spoilt: Shop, quadrille: Command) -> None:
    """A repair is a row of the chain of whoever heard again: who, why, which event; the mail goes out, once more."""
    order = confirmed(spoilt)
    spoil(spoilt, "notification", "DELETE FROM notice WHERE order_id = %(order)s", order=order)
    one = found(spoilt, order, Kind.ENDED_WITHOUT_NOTICE)
    code, page, _ = quadrille.run("findings", "show", one["finding_id"])
    assert (code, "now       OPEN" in page, "quadrille findings repair" in page) == (0, True, True), page

    assert quadrille.run("findings", "repair", one["finding_id"], "--reason", "the row was lost")[0] == 0

    rows = "SELECT action, reason, after ->> 'outcome', after ->> 'event' FROM audit WHERE subject = %s"
    assert spoilt.sql("notification", rows, order) == [("hear-again", "the row was lost", "DONE", "order.confirmed")]
    spoilt.until(lambda: len(spoilt.mails(order)) == 2, "the mail is sent again")
    assert len({mail["message_id"] for mail in spoilt.mails(order)}) == 1
    closed(spoilt, one["finding_id"])
    listed, out, _ = quadrille.run("findings", "list", "--closed")
    assert (listed, one["finding_id"][-8:] in out) == (0, True)


def test_an_event_is_not_heard_again_for_nothing(spoilt: Shop) -> None:
    """Where nothing is to be mended it is refused by name, and nothing changes but the audit."""
    order, other = confirmed(spoilt), confirmed(spoilt)
    spoilt.until(spoilt.all_read, "all is read")
    before = spoilt.effects(order)
    stock, here = place(spoilt, order, "stock.reserved"), place(spoilt, order, "order.confirmed")

    def rule(service: str, **named: object) -> str:
        answer = heard_again(spoilt, service, order, **named)
        return str(answer.body.get("rule") or answer.body.get("type", "").rpartition("/")[2] or answer.status)

    assert rule("inventory", **here) == "NO_EFFECT"
    assert rule("payment", **stock) == "FORWARD"
    assert rule("inventory", **place(spoilt, other, "order.confirmed")) == "ANOTHER_RECORD"
    assert rule("inventory", **here | {"event_id": str(uuid.uuid4())}) == "ANOTHER_RECORD"
    assert rule("notification", **stock) == "NOT_HEARD"
    assert rule("inventory", **here | {"offset": 1 << 40}) == "not-found"
    assert spoilt.effects(order) == before


def test_what_is_set_aside_is_not_heard_again(spoilt: Shop, held_up: str) -> None:
    """An event that waits parked was not handled: it is redriven, not heard again; and its order is not judged."""
    told = place(spoilt, held_up, "order.cancellation_requested")
    answer = heard_again(spoilt, "inventory", held_up, **told)

    assert (answer.status, answer.body["rule"]) == (409, "NOT_HANDLED")
    since = the_round(spoilt)["judged_at"]
    spoilt.until(lambda: the_round(spoilt)["judged_at"] > since, "another round was held")
    assert [one for one in findings(spoilt, closed=True) if one["order_id"] == held_up] == []


@pytest.fixture
def held_up(spoilt: Shop) -> Iterator[str]:
    """An order whose cancellation inventory has parked: its level breaks a rule of the database."""
    order = confirmed(spoilt)
    lock = "ALTER TABLE hold ADD CONSTRAINT spoilt CHECK (order_id <> '{}' OR state <> 'RELEASED') NOT VALID"
    with psycopg.connect(spoilt.stack.database_url("inventory", "owner"), autocommit=True) as db:
        db.execute(lock.format(order).encode())
        spoilt.cancel(order)
        parked = "SELECT 1 FROM parked WHERE line = %s AND state IN ('OPEN', 'DEAD')"
        spoilt.until(lambda: spoilt.sql("inventory", parked, order), "it is parked")
        yield order
        db.execute("ALTER TABLE hold DROP CONSTRAINT spoilt")


def test_nothing_is_judged_while_somebody_is_away(spoilt: Shop, quadrille: Command) -> None:
    """Without one of the services a round judges nothing and says who is away; what was found stays."""
    order = confirmed(spoilt)
    spoil(spoilt, "notification", "DELETE FROM notice WHERE order_id = %(order)s", order=order)
    one = found(spoilt, order, Kind.ENDED_WITHOUT_NOTICE)

    with away(spoilt.stack, "payment-worker"):
        spoilt.until(lambda: the_round(spoilt)["outcome"] == "AWAY", "a round finds it away")
        assert "payment-worker" in the_round(spoilt)["detail"]
        code, _, err = quadrille.run("findings", "repair", one["finding_id"], "--reason", "a test")
        assert (code, "payment-worker" in err) == (7, True), err
        assert one["finding_id"] in {still["finding_id"] for still in findings(spoilt)}
    spoilt.until(lambda: the_round(spoilt)["outcome"] == "JUDGED", "it judges again")
    assert quadrille.run("findings", "repair", one["finding_id"], "--reason", "a test")[0] == 0
    closed(spoilt, one["finding_id"])


def test_findings_are_counted(spoilt: Shop) -> None:
    """The console counts what is open, by kind, and tells when a round last came to its end."""
    order = nobodys(spoilt)
    kind = Kind.NOTICE_WITHOUT_ORDER
    insert = "INSERT INTO notice VALUES (%(order)s, 'confirmed', 'SENT', false, NULL)"
    spoil(spoilt, "notification", insert, order=order)
    found(spoilt, order, kind)

    def counted(name: str) -> float:
        with Client(spoilt.stack.url("console-ops")) as ops:
            lines = ops.demand("GET", "/metrics").raw.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    spoilt.until(lambda: counted(f'quadrille_findings_open{{kind="{kind}"}}') == 1, "it is counted")
    assert counted("quadrille_reconciler_judged_timestamp_seconds") > 0
    spoil(spoilt, "notification", "DELETE FROM notice WHERE order_id = %(order)s", order=order)
    spoilt.until(lambda: counted("quadrille_findings_open{") == 0, "none is open")


def test_the_examples_of_findings_run(spoilt: Shop, quadrille: Command) -> None:
    """The help's own examples succeed on a real finding; in JSON it is what the API tells."""
    order = confirmed(spoilt)
    spoil(spoilt, "notification", "DELETE FROM notice WHERE order_id = %(order)s", order=order)
    one = found(spoilt, order, Kind.ENDED_WITHOUT_NOTICE)
    sample = quadrille.examples("findings", "show")[0][-1]

    def examples(verb: str) -> list[tuple[int, str, str]]:
        swapped = {sample: one["finding_id"], sample[-8:]: one["finding_id"][-8:]}
        return [quadrille.run(*(swapped.get(word, word) for word in words))
                for words in quadrille.examples("findings", verb)]  # fmt: skip

    listed = examples("list")
    assert [code for code, _, _ in listed] == [1, 1]
    assert one["finding_id"] in {told["finding_id"] for told in json.loads(listed[1][1])["findings"]}
    assert [code for code, _, _ in examples("show")] == [0, 0]
    assert [code for code, _, _ in examples("repair")] == [0]
    closed(spoilt, one["finding_id"])
    assert quadrille.run("findings", "show", "ffff-none")[0] == 2
    assert quadrille.run("findings", "show", str(uuid.uuid4()))[0] == 5
