"""The auditor on a real run: it finds nothing where nothing is wrong, and says what it could not judge."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from quadrille.ids import event_id
from quadrille.messages import Event, Intent
from quadrille_auditor import HEARD, INVARIANTS, Evidence, UnreadableError, audit, gather, judge, lines
from quadrille_auditor.evidence import INTENTS
from quadrille_auditor.ids import hash_in, hash_of, time_of
from quadrille_auditor.outside import clients
from quadrille_cli.auditing import audited as audit_of
from quadrille_cli.auditing import sources
from quadrille_cli.saga.saga_map import saga_of
from quadrille_cli.services import SERVICES
from tests.audit.workload import TEA, Customer
from tests.conftest import Shop, away
from tests.stack.conftest import quadrille

COLUMNS = 80


def told(evidence: Evidence) -> str:
    """The report of an evidence, for a test that fails."""
    return "\n".join(lines(judge(evidence)))


def test_a_clean_run_has_no_finding(captured: Evidence) -> None:
    """Orders to every end, judged by all 21: nothing is wrong, and something was held against nearly each of them."""
    report = judge(captured)
    assert report.findings == (), told(captured)
    assert {row.number for row in report.rows} == set(range(1, 22)) == INVARIANTS.keys()
    idle = {row.name for row in report.rows if not row.verdict.checked}
    assert idle <= {"unknown-outcomes", "parked-closed"}, idle  # nothing is unknown or parked in a clean run
    assert report.orders["at_rest"] >= 12
    assert report.orders["frozen"] == 1
    assert report.code == 0


def test_an_audit_repeated_finds_the_same(audited: Shop, captured: Evidence) -> None:
    """Reading again what stands still gives the same evidence of orders, money and goods, and no finding."""
    again = gather(sources(audited.stack))
    assert judge(again).findings == (), told(again)
    for name in ("ledger", "mails", "holds", "payments"):
        assert set(getattr(captured, name)) <= set(getattr(again, name))


def test_orders_in_flight_are_told_and_not_accused(audited: Shop, captured: Evidence) -> None:
    """While a participant is away orders wait: they are counted as in flight, and nothing is held against them."""
    del captured
    shop = audited
    with shop_without_processor(shop):
        orders = [shop.submit(TEA, "tok_ok") for _ in range(3)]
        shop.until(lambda: _asked(shop, orders), "the charges are tried")
        report = audit_of(shop.stack)
        assert report.findings == (), "\n".join(lines(report))
        assert report.orders["in_flight"] >= len(orders)
        assert "in flight (told, not judged as a whole)" in "\n".join(lines(report))
    for order in orders:
        shop.ended(order)
    shop.until(shop.all_read, "all is read")


@contextmanager
def shop_without_processor(shop: Shop) -> Iterator[None]:
    """A shop whose processor answers nothing for a while."""
    shop.trouble(errors=1.0)
    try:
        yield
    finally:
        shop.trouble()


def _asked(shop: Shop, orders: list[str]) -> bool:
    tried = "SELECT count(*) FROM task WHERE key = ANY(%s) AND attempts > 0"
    return bool(shop.sql("payment", tried, orders)[0][0] == len(orders))


def test_an_audit_under_load_raises_no_false_alarm(audited: Shop, captured: Evidence) -> None:
    """Orders are placed while it reads: whatever it catches half done is in flight, and nothing is found wrong."""
    del captured
    me = Customer(audited)
    for _ in range(4):
        orders = [me.place(TEA) for _ in range(8)]
        audited.cancel(orders[0])
        report = audit_of(audited.stack)
        assert report.findings == (), "\n".join(lines(report))
        assert report.code == 0
    audited.until(audited.all_read, "all is read")


def test_a_stack_that_does_not_catch_up_is_refused_by_name(audited: Shop, captured: Evidence) -> None:
    """With a consumer away there is no common moment: who is behind is named, nothing is judged, exit code 8."""
    del captured
    shop = audited
    with away(shop.stack, "inventory-worker"):
        order = shop.submit(TEA)
        report = audit_of(shop.stack, wait=2.0)
        assert report.code == 8
        assert report.rows == ()
        assert any(line.startswith("inventory has handled order.events[") for line in report.moving), report.moving
        code, printed = quadrille("audit", "run", "--wait", "1", "--data", str(shop.stack.data))
        assert code == 8
        assert "still moving: inventory has handled order.events[" in printed
        assert "not judged" in printed
    shop.ended(order)
    shop.until(shop.all_read, "all is read")


def test_what_cannot_be_read_is_named_and_nothing_is_green(audited: Shop) -> None:
    """A database, broker, registry or ledger that cannot be read: exit code 8, with its name."""
    usual = sources(audited.stack)
    nowhere = {**usual.databases, "payment": "postgresql://app:wrong@127.0.0.1:9/payment"}
    for broken, name in [
        (replace(usual, databases=nowhere), "database payment"),
        (replace(usual, sandbox="http://127.0.0.1:9"), "ledger"),
        (replace(usual, registry="http://127.0.0.1:9"), "registry"),
        (replace(usual, clients=Path("nowhere.jsonl")), "clients' log nowhere.jsonl"),
    ]:
        report = audit(broken)
        assert report.code == 8, name
        assert len(report.unread) == 1
        assert report.unread[0].startswith(f"{name}: "), report.unread
        assert report.rows == ()


def test_without_the_world_outside_money_and_mails_are_not_judged(audited: Shop, captured: Evidence) -> None:
    """Where no ledger and no mailbox are given, what hangs on them is told as not judged, never as wrong."""
    del captured
    report = audit(replace(sources(audited.stack), sandbox=""))
    assert report.findings == (), "\n".join(lines(report))
    unjudged = {row.number: row.verdict.unjudged for row in report.rows if not row.verdict.checked}
    assert "ledger was not given" in unjudged[4]
    assert "ledger was not given" in unjudged[5]
    assert "mailbox was not given" in unjudged[15]


def test_an_auditor_can_change_nothing(audited: Shop) -> None:
    """Its sessions are read-only: the database itself refuses a write."""
    from quadrille_auditor.databases import snapshot  # noqa: PLC0415 - only here

    with (
        pytest.raises(UnreadableError, match="read-only"),
        snapshot("order", audited.stack.database_url("order")) as db,
    ):
        db.execute("INSERT INTO canary VALUES ('auditor', 1, now(), now())")
    assert audited.sql("order", "SELECT 1 FROM canary WHERE source = 'auditor'") == []


def test_a_clients_log_with_a_bad_line_is_refused_by_its_number(tmp_path: Path) -> None:
    """What is no JSON, lacks its outcome or has an unknown one is named by file and line."""
    log = tmp_path / "clients.jsonl"
    good = json.dumps({"client": "a", "key": "k", "order_id": "o", "outcome": "accepted"})
    for bad in ("{", "[]", '{"client": "a"}', '{"outcome": "perhaps"}'):
        log.write_text(f"{good}\n\n{bad}\n", "utf-8")
        with pytest.raises(UnreadableError, match="line 3"):
            clients(log)
    log.write_text(f"{good}\n", "utf-8")
    assert [one.outcome for one in clients(log)] == ["accepted"]


def test_the_report_fits_eighty_columns_and_says_what_was_read(captured: Evidence) -> None:
    """Every line of it, also with findings, whose ids, expectation and places it tells."""
    clean = list(lines(judge(captured)))
    assert max(map(len, clean)) <= COLUMNS
    ends = sum(high for (topic, _), (_, high) in captured.ranges.items() if topic == "order.events")
    assert any(f"to offset {ends:,}" in line for line in clean)
    assert sum(line.split()[2] == "ok" for line in clean[:21]) == 21
    order = next(iter(captured.resting.values()))
    broken = replace(captured, orders={id_: one for id_, one in captured.orders.items() if id_ != order.id})
    shown = list(lines(judge(broken)))
    assert max(map(len, shown)) <= COLUMNS
    assert any(order.id in line for line in shown)
    assert "findings" in shown[-1]


def test_the_command_audits_a_stack(audited: Shop, captured: Evidence) -> None:
    """`quadrille audit run`: exit code 0 and 21 lines; --only picks, -o json tells all, a strange name is refused."""
    del captured
    data = ("--data", str(audited.stack.data))
    code, printed = quadrille("audit", "run", *data)
    assert code == 0, printed
    assert "clean" in printed.splitlines()[-1]
    code, printed = quadrille("audit", "run", "--only", "money", "--only", "8", "-o", "json", *data)
    assert code == 0
    assert [one["name"] for one in json.loads(printed)["invariants"]] == ["money", "outbox-on-topic"]
    code, printed = quadrille("audit", "run", "--only", "luck", *data)
    assert code == 2
    assert "luck is no invariant" in printed


def test_a_broken_invariant_is_exit_code_1(audited: Shop, captured: Evidence) -> None:
    """A level that somebody changed by hand: the command names invariant, SKU and figures, and exits 1."""
    del captured
    change = "UPDATE level SET held = held + %s, available = available - %s WHERE sku = 'SKU-HOT'"
    with psycopg.connect(audited.stack.database_url("inventory", "owner"), autocommit=True) as db:
        db.execute(change, [3, 3])
        try:
            code, printed = quadrille("audit", "run", "--only", "stock", "--data", str(audited.stack.data))
        finally:
            db.execute(change, [-3, -3])
    assert code == 1
    assert "held of SKU-HOT is not its open holds" in printed
    assert "expected 0; found 3" in printed


def test_the_auditor_knows_who_hears_what() -> None:
    """Its own table of consumers and intents is what the handlers say; it may not ask them itself."""
    for on in saga_of():
        heard = {cls.type for cls in on.consumes(Event).values()}
        assert HEARD[on.service] == heard, on.service
    assert set(HEARD) == set(SERVICES)
    assert {name for on in saga_of() for name in on.emits(Intent)} == INTENTS | {"push_webhook"}


def test_ids_are_reckoned_as_the_contract_says() -> None:
    """The vector of contracts.md, by the auditor's own hand, and the services' own by chance-made causes."""
    cause = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
    first = "01a1fd62-57f0-8654-81bf-64a9a8cc9acb"
    assert hash_in(first) == hash_of("inventory", cause, "stock.reserved", 0)
    assert hash_in("01a1fd62-57f0-8638-89d8-c384a9d477f4") == hash_of("payment", first, "charge_card", 0)
    assert time_of(first) == time_of(cause)
    for ordinal in range(20):
        made = event_id("order", uuid.uuid4(), "order.placed", ordinal, 1)
        assert hash_in(str(made)) != hash_of("order", cause, "order.placed", ordinal)
    assert hash_in(str(event_id("order", uuid.UUID(cause), "x", 3, 7))) == hash_of("order", cause, "x", 3)
