"""What an operator sees of parked inputs and does with them: in truth, by rule, once, with its row in the audit."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quadrille.context import ProcessContext
from quadrille.ids import event_id, milliseconds, uuid7
from quadrille.messages import Message, to_json
from quadrille.observability.tracing import Spans
from quadrille.ops import server as ops
from quadrille.ops.parked import ParkedRoutes
from quadrille.ops.replays import ReplayRoutes
from quadrille.processing.envelope import Duplicate, Envelope, Handled, Record, Unreadable
from quadrille.replay.fence import Effects
from quadrille.replay.manager import Replays, Shadows
from quadrille.replay.parked_bulk import ParkedBulk
from quadrille.settings import Settings
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of, wait_until
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import (
    BeginTasting,
    BreadOrdered,
    CakeBaked,
    CakeOrdered,
    Mode,
    OrderDropped,
    TastingBooked,
)
from tests.chassis.support.sample_service import Rules

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
WHY = {"reason": "mended"}
Ask = Callable[..., tuple[int, Any]]


def told(*bodies: Message, since: int = 0) -> list[Envelope]:
    """Return inputs as a topic gives them."""
    made = []
    for one in chained(bodies, since=since):
        assert one.record
        made.append(replace(one, record=Record(one.record.raw, record_headers(one.id, one.type))))
    return made


def port(db: Database, rules: Rules) -> Iterator[Ask]:
    """Serve a pantry's ops port and give a way to ask it."""
    context = ProcessContext(
        Settings.model_validate(NOWHERE), sample_service.service(rules=rules), db.connect, Spans.disabled(),
        decoder=PlainCodec(),
    )  # fmt: skip
    bulk = ParkedBulk(context)
    routes = {
        **ReplayRoutes(Replays(context, Effects({})), Shadows(context), bulk).routes(),
        **ParkedRoutes(bulk).routes(),
    }
    with bulk, ops.serve("127.0.0.1:0", "pantry", "worker", {}, routes=routes) as server:

        def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
            line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            content = None if body is None else json.dumps(body).encode()
            line.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            answer = line.getresponse()
            document = json.loads(answer.read())
            line.close()
            return answer.status, document

        yield ask


@pytest.fixture
def mended(db: Database) -> Iterator[Ask]:
    """A worker whose handlers are repaired."""
    yield from port(db, Rules(frozenset(Mode), patient=True))


@pytest.fixture
def broken(db: Database) -> Iterator[Ask]:
    """A worker whose handlers are as they were."""
    yield from port(db, Rules())


def park(db: Database, *bodies: Message) -> list[Envelope]:
    """Fill the shelves and commit a batch of which something is parked."""
    db.fill(rye=50)
    db.start_at()
    batch = told(*bodies)
    db.commit(*batch)
    return batch


def audited(db: Database) -> list[tuple[str, str, str]]:
    """Return what the audit has: action, subject, reason."""
    return [(a, s, r) for a, s, r in db.rows("SELECT action, subject, reason FROM audit ORDER BY number")]


@pytest.fixture(autouse=True)
def no_audit(db: Database) -> None:
    """The audit is empty when a test begins."""
    db.rows("TRUNCATE audit")


def test_what_fails_alike_is_one_group(db: Database, broken: Ask) -> None:
    """Two orders that fail at one line are a group with its place in the code; those behind are counted."""
    unlucky = [BreadOrdered(f"o-{n}", mode=Mode.UNLUCKY) for n in (1, 2)]
    park(db, *unlucky, OrderDropped("o-1"), BreadOrdered("o-3", mode=Mode.CHOKING))

    status, document = broken("GET", "/ops/parked")
    assert status == 200
    first, second = document["groups"]
    assert (first["count"], first["keys"], first["behind"], first["exception"]) == (2, 2, 1, "Unlucky")
    assert first["at"].startswith("tests/chassis/support/sample_service.py:")
    assert (second["exception"], second["count"]) == ("ValueError", 1)
    assert [one["order_id"] for one in document["records"]] == ["o-1", "o-2", "o-3"]

    _, chosen = broken("GET", f"/ops/parked?group={second['group']}")
    assert [one["order_id"] for one in chosen["records"]] == ["o-3"]
    assert broken("GET", "/ops/parked?state=DISCARDED")[1]["records"] == []
    assert broken("GET", "/ops/parked?state=GONE")[0] == 422
    assert broken("GET", "/ops/parked?limit=0")[0] == 422


def test_one_is_shown_with_all_that_is_known_of_it(db: Database, broken: Ask) -> None:
    """Bytes, decoded body, headers, frames, next try and what waits behind it; by id, order, or the end of one."""
    order = str(uuid7())
    head, behind = park(db, BreadOrdered(order, mode=Mode.UNLUCKY), OrderDropped(order))
    assert head.record

    for name in (order, str(head.id), order[-6:], str(head.id)[-6:]):
        status, document = broken("GET", f"/ops/parked/{name}")
        assert (status, document["record"]["parked_id"]) == (200, str(head.id)), document
    record = document["record"]
    assert bytes.fromhex(record["raw"]) == head.record.raw
    assert (record["body"]["order_id"], record["raw_cut"], record["attempts"]) == (order, False, 1)
    assert {"name": "ce_type", "text": "bread.ordered", "hex": b"bread.ordered".hex()} in record["headers"]
    assert record["frames"][-1].endswith(":hold_loaves")
    assert record["retry_at"] > record["parked_at"]
    assert [one["parked_id"] for one in record["waiting_behind"]] == [str(behind.id)]


def test_hostile_bytes_are_shown_as_hex(db: Database, broken: Ask) -> None:
    """A megabyte that is no text, under headers that are none, is shown as its beginning and says so."""
    db.start_at()
    [one] = told(BreadOrdered("o-1"))
    raw = b"<script>\xff\0" * 100_000
    db.commit(replace(one, body=Unreadable("nonsense"), record=Record(raw, (("h", b"\xfe"),))))

    record = broken("GET", "/ops/parked/o-1")[1]["record"]
    assert (record["bytes"], record["raw_cut"], record["body"]) == (1_000_000, True, None)
    assert raw.startswith(bytes.fromhex(record["raw"]))
    assert record["headers"] == [{"name": "h", "text": None, "hex": "fe"}]


def test_the_end_of_an_id_must_be_one_inputs_alone(db: Database, broken: Ask) -> None:
    """Several ends alike are named, none is 404, three characters are no end."""
    park(db, BreadOrdered("1-same", mode=Mode.UNLUCKY), BreadOrdered("2-same", mode=Mode.UNLUCKY))

    status, problem = broken("GET", "/ops/parked/same")
    assert (status, problem["rule"], problem["candidates"]) == (409, "AMBIGUOUS", ["1-same", "2-same"])
    assert broken("GET", "/ops/parked/ame")[0] == 404
    assert broken("GET", "/ops/parked/nobody")[0] == 404
    assert broken("POST", "/ops/parked/redrive", {**WHY, "id": "same"})[0] == 409


def test_a_mended_input_goes_through_with_what_waited(db: Database, mended: Ask) -> None:
    """A dead head is redriven; what was behind it goes on at once, in sequence; who and why stand in row and audit."""
    head, _ = park(db, BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1"))
    db.rows("UPDATE parked SET state = 'DEAD', retry_at = NULL WHERE id = %s", head.id)

    status, document = mended("POST", "/ops/parked/redrive", {**WHY, "id": str(head.id)})

    assert (status, document["results"][0]["outcome"], document["results"][0]["went_on"]) == (200, "DONE", 1)
    assert db.emitted() == [("loaves.held", "o-1"), ("loaves.returned", "o-1")]
    assert db.rows("SELECT state, ended_by, reason FROM parked ORDER BY place") == [
        ("REDRIVEN", "local", "mended"), ("REDRIVEN", "worker", "handled"),
    ]  # fmt: skip
    assert audited(db) == [("parked-redrive", "o-1", "mended")]
    [(payload,)] = db.rows("SELECT payload FROM outbox WHERE type = 'input.redriven'")
    assert json.loads(payload[5:])["operator"] == "local"


def test_what_fails_again_is_told_so(db: Database, broken: Ask) -> None:
    """A redrive that came to nothing says which error, where; the dead head stays dead and counts one attempt."""
    [head] = park(db, BreadOrdered("o-1", mode=Mode.UNLUCKY))
    db.rows("UPDATE parked SET state = 'DEAD', retries = 3, attempts = 4, retry_at = NULL")

    [result] = broken("POST", "/ops/parked/redrive", {**WHY, "order_id": "o-1"})[1]["results"]

    assert (result["parked_id"], result["outcome"], result["error_class"]) == (str(head.id), "PARKED", "HANDLER")
    assert result["frames"][-1].endswith(":hold_loaves")
    assert db.rows("SELECT state, attempts, retry_at FROM parked") == [("DEAD", 5, None)]
    assert audited(db) == [("parked-redrive", "o-1", "mended")]


def test_what_waits_behind_another_is_refused(db: Database, mended: Ask) -> None:
    """The refusal names who stands in the way and the command; done so, it works, and nothing had happened before."""
    head, behind = park(db, BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1"))
    db.rows("UPDATE parked SET state = 'DEAD' WHERE id = %s", head.id)

    status, problem = mended("POST", "/ops/parked/redrive", {**WHY, "id": str(behind.id)})

    assert (status, problem["rule"], problem["blocker"]) == (409, "BEHIND", str(head.id))
    assert f"quadrille parked redrive {head.id} --service pantry" in problem["detail"]
    assert (db.emitted(), audited(db)) == ([], [])


def test_a_discard_is_seen_until_it_is_put_back(db: Database, mended: Ask) -> None:
    """Its id counts as handled, what waited goes on; named again it is put back and handled, then refused."""
    head, _ = park(db, BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1"))

    status, document = mended("POST", "/ops/parked/discard", {**WHY, "id": str(head.id)})
    assert (status, document["results"][0]["outcome"], document["results"][0]["went_on"]) == (200, "DISCARDED", 1)
    assert [type(o) for o in db.commit(replace(head, origin=None))] == [Duplicate]
    assert db.emitted() == [("loaves.returned", "o-1")]
    assert mended("POST", "/ops/parked/discard", {**WHY, "id": str(head.id)})[1]["rule"] == "NOT_PARKED"

    assert mended("POST", "/ops/parked/redrive", {**WHY, "id": str(head.id)})[1]["results"][0]["outcome"] == "DONE"
    assert mended("POST", "/ops/parked/redrive", {**WHY, "id": str(head.id)})[1]["rule"] == "NOT_PARKED"
    assert [action for action, _, _ in audited(db)] == ["parked-discard", "parked-redrive"]
    assert [kind for (kind,) in db.rows("SELECT type FROM outbox WHERE type LIKE 'input.%' ORDER BY ctid")] == [
        "input.parked", "input.discarded", "input.redriven",
    ]  # fmt: skip


def test_two_operators_at_once_redrive_once(db: Database, mended: Ask) -> None:
    """One of them does it; the other is told that it went through."""
    [head] = park(db, BreadOrdered("o-1", mode=Mode.UNLUCKY))
    body = {**WHY, "id": str(head.id)}

    with ThreadPoolExecutor(2) as pool:
        answers = [f.result() for f in [pool.submit(mended, "POST", "/ops/parked/redrive", body) for _ in range(2)]]

    assert sorted(status for status, _ in answers) == [200, 409]
    assert (db.emitted(), len(audited(db))) == ([("loaves.held", "o-1")], 1)


def answer(db: Database, **more: Any) -> Envelope:  # noqa: ANN401 - any field of an answer
    """Order a cake and park the answer to its intent."""
    order = envelope_of(CakeOrdered("o-1"))
    db.commit(order)
    row = event_id("pantry", order.id, "bake_cake", 0)
    body = CakeBaked("o-1", odd=True)
    made = envelope_of(body, event_id("pantry", row, "answer", 0), from_task=row, record=Record(to_json(body)), **more)
    db.commit(made)
    return made


def test_a_discarded_answer_is_asked_for_again(db: Database, mended: Ask) -> None:
    """Of an answer the copy alone is dropped: its task is free and due; put back, it is held and ended."""
    one = answer(db)

    result = mended("POST", "/ops/parked/discard", {**WHY, "order_id": "o-1"})[1]["results"][0]
    assert (result["parked_id"], result["outcome"]) == (str(one.id), "DISCARDED")
    assert db.rows("SELECT leased_until, due <= now() FROM task") == [(None, True)]

    assert mended("POST", "/ops/parked/redrive", {**WHY, "id": str(one.id)})[1]["results"][0]["outcome"] == "DONE"
    assert db.rows("SELECT * FROM task") == []


def test_a_discarded_answer_whose_task_was_answered_cannot_be_put_back(db: Database, mended: Ask) -> None:
    """The task asked again and has its answer: there is nothing to put the copy back for."""
    one = answer(db)
    mended("POST", "/ops/parked/discard", {**WHY, "id": str(one.id)})
    db.rows("DELETE FROM task")

    assert mended("POST", "/ops/parked/redrive", {**WHY, "id": str(one.id)})[1]["rule"] == "ENDED"
    assert db.rows("SELECT state FROM parked") == [("DISCARDED",)]


def test_a_timer_cannot_be_discarded(db: Database, mended: Ask) -> None:
    """What a timer is to begin would never happen: it is refused with the command that works."""
    due = datetime.now(UTC) - timedelta(seconds=1)
    booked = envelope_of(TastingBooked("unlucky-1", due))
    db.commit(booked)
    timer = BeginTasting("unlucky-1", due)
    row = event_id("pantry", booked.id, "begin_tasting", 0, milliseconds(due))
    db.commit(envelope_of(timer, row, from_task=row, record=Record(to_json(timer))))

    status, problem = mended("POST", "/ops/parked/discard", {**WHY, "id": str(row)})
    assert (status, problem["rule"]) == (409, "TIMER")
    assert mended("POST", "/ops/parked/redrive", {**WHY, "id": str(row)})[1]["results"][0]["outcome"] == "DONE"


def old(db: Database, days: int = 30) -> Envelope:
    """Park an event whose id is older than the inbox can tell."""
    db.fill(rye=50)
    db.start_at()
    [one] = told(BreadOrdered("o-1"))
    assert one.record
    identity = uuid7(milliseconds(datetime.now(UTC) - timedelta(days=days)))
    record = Record(one.record.raw, record_headers(identity, one.type))
    body = Unreadable("the event is older than the inbox can tell", "BELOW_FLOOR")
    aged = replace(one, id=identity, body=body, record=record)
    db.commit(aged)
    return aged


def test_what_is_too_old_is_let_in_by_name_only(db: Database, mended: Ask) -> None:
    """Refused by rule; with accept_old it is handled, and the inbox knows it from then on, by whom and why."""
    one = old(db)
    assert mended("POST", "/ops/parked/redrive", {**WHY, "id": str(one.id)})[1]["rule"] == "BELOW_FLOOR"

    body = {**WHY, "id": str(one.id), "accept_old": True}
    assert mended("POST", "/ops/parked/redrive", body)[1]["results"][0]["outcome"] == "DONE"

    assert db.emitted() == [("loaves.held", "o-1")]
    assert db.rows("SELECT * FROM inbox_old") == [(one.id, "local", "mended")]
    assert [type(o) for o in db.commit(replace(one, origin=None))] == [Duplicate]


def test_the_answer_of_what_was_unknown_for_too_long_is_let_in(db: Database, mended: Ask) -> None:
    """A task older than the inbox's days: its answer is parked, is let in by a person, and ends the task."""
    row = uuid7(milliseconds(datetime.now(UTC) - timedelta(days=30)))
    sql = "INSERT INTO task (id, key, type, body, due, traceparent) VALUES (%s, 'o-1', 'bake_cake', '{}', now(), '')"
    db.rows(sql, row)
    body = CakeBaked("o-1")
    late = envelope_of(body, event_id("pantry", row, "answer", 0), from_task=row, record=Record(to_json(body)))
    db.commit(late)
    assert db.rows("SELECT state, error_class FROM parked") == [("DEAD", "BELOW_FLOOR")]

    asked = {**WHY, "id": str(late.id), "accept_old": True}
    assert mended("POST", "/ops/parked/redrive", asked)[1]["results"][0]["outcome"] == "DONE"

    assert db.rows("SELECT event_id FROM inbox_old") == [(late.id,)]
    assert (db.rows("SELECT * FROM task"), db.emitted()) == ([], [("cake.ready", "o-1")])


def test_the_guard_of_the_inbox_holds_for_what_was_let_in(db: Database, mended: Ask) -> None:
    """A second redrive of what was let in changes nothing: two persons that let it in have let it in once."""
    one = old(db)
    body = {**WHY, "id": str(one.id), "accept_old": True}
    mended("POST", "/ops/parked/redrive", body)
    assert mended("POST", "/ops/parked/redrive", body)[1]["rule"] == "NOT_PARKED"
    assert [type(o) for o in db.commit(envelope_of(BreadOrdered("o-2")))] == [Handled]


@pytest.mark.parametrize("body", [{}, {"id": "a", "order_id": "b"}, {"id": "a", "colour": 1}, {"id": 7}])
def test_a_request_names_one_thing(db: Database, mended: Ask, body: dict[str, object]) -> None:
    """Neither, both, or what nobody knows is refused; so is one without a reason."""
    park(db, BreadOrdered("o-1", mode=Mode.UNLUCKY))
    assert mended("POST", "/ops/parked/redrive", {**WHY, **body})[0] == 422
    assert mended("POST", "/ops/parked/redrive", {"id": "o-1"})[0] == 422


def group_of(db: Database, many: int) -> str:
    """Park so many orders that fail alike, given up, and return their group."""
    park(db, *(BreadOrdered(f"o-{n}", mode=Mode.UNLUCKY) for n in range(many)))
    db.rows("UPDATE parked SET state = 'DEAD', retries = 3, retry_at = NULL")
    db.rows("UPDATE level SET available = 10000")
    return str(db.one("SELECT DISTINCT fingerprint FROM parked"))


def rests(ask: Ask, operation: str, states: tuple[str, ...] = ("DONE", "PAUSED")) -> Any:  # noqa: ANN401 - a document
    """Return an operation once it goes no further."""
    wait_until(lambda: ask("GET", f"/ops/operations/{operation}")[1]["state"] in states, what=str(states))
    return ask("GET", f"/ops/operations/{operation}")[1]


def begin(ask: Ask, verb: str, group: str, **more: object) -> Any:  # noqa: ANN401 - a document
    """Look, then ask for what was seen; return the operation."""
    limit = {"limit": more["limit"]} if "limit" in more else {}
    _, seen = ask("POST", f"/ops/parked/{verb}", {**WHY, "group": group, **limit, "dry_run": True})
    body = {**WHY, "group": group, "selection": seen["selection"], "rate": 1000, **more}
    status, document = ask("POST", f"/ops/parked/{verb}", body)
    assert status == 202, document
    return document


def test_a_group_is_redriven_at_a_rate_with_its_progress(db: Database, mended: Ask) -> None:
    """A dry run changes nothing; then each of the frozen selection goes through, with a row of the audit each."""
    group = group_of(db, 12)
    _, seen = mended("POST", "/ops/parked/redrive", {**WHY, "group": group, "dry_run": True})
    assert (seen["records"], seen["keys"], db.emitted(), audited(db)) == (12, 12, [], [])

    made = begin(mended, "redrive", group)
    done = rests(mended, made["operation_id"])

    assert (done["state"], done["progress"]["outcomes"]) == ("DONE", {"DONE": 12})
    assert sorted(db.emitted()) == sorted(("loaves.held", f"o-{n}") for n in range(12))
    actions = [action for action, _, _ in audited(db)]
    assert actions == ["parked-redrive-many", *["parked-redrive"] * 12, "parked-redrive-end"]


def test_a_limit_takes_the_oldest(db: Database, mended: Ask) -> None:
    """Of a group only so many are done, the oldest first; the others stay as they are."""
    made = begin(mended, "redrive", group_of(db, 6), limit=2)
    rests(mended, made["operation_id"])

    assert sorted(db.emitted()) == [("loaves.held", "o-0"), ("loaves.held", "o-1")]
    assert len(db.parked()) == 4


def test_a_selection_that_changed_is_refused(db: Database, mended: Ask) -> None:
    """What was looked at is what is done: one more or one less and a person must look again."""
    group = group_of(db, 3)
    _, seen = mended("POST", "/ops/parked/redrive", {**WHY, "group": group, "dry_run": True})
    mended("POST", "/ops/parked/redrive", {**WHY, "order_id": "o-1"})

    body = {**WHY, "group": group, "selection": seen["selection"]}
    status, problem = mended("POST", "/ops/parked/redrive", body)
    assert (status, problem["rule"]) == (409, "SELECTION_CHANGED")
    assert mended("POST", "/ops/parked/redrive", {**WHY, "group": group})[0] == 422
    assert len(db.emitted()) == 1


def test_too_many_failures_stop_it_until_a_person_resumes(db: Database, broken: Ask) -> None:
    """With the handler still broken it stops at the fifth; resumed it looks at five more, and says how far it is."""
    made = begin(broken, "redrive", group_of(db, 12), stop_at=50)
    found = rests(broken, made["operation_id"])
    assert (found["state"], found["progress"]["tried"], found["progress"]["outcomes"]) == ("PAUSED", 5, {"PARKED": 5})
    assert found["progress"]["failure"].startswith("5 of 5 failed")

    broken("POST", f"/ops/operations/{made['operation_id']}/resume", WHY)
    wait_until(lambda: broken("GET", f"/ops/operations/{made['operation_id']}")[1]["progress"]["tried"] == 10)
    found = rests(broken, made["operation_id"])
    broken("POST", f"/ops/operations/{made['operation_id']}/cancel", WHY)
    assert broken("GET", f"/ops/operations/{made['operation_id']}")[1]["state"] == "CANCELLED"
    assert db.rows("SELECT attempts, count(*)::int FROM parked GROUP BY 1 ORDER BY 1") == [(1, 2), (2, 10)]


def test_it_pauses_and_goes_on_with_another_worker_exactly_there(db: Database, mended: Ask) -> None:
    """Paused between two inputs; resumed by whichever worker: each is handled once."""
    made = begin(mended, "redrive", group_of(db, 20), rate=5.0)
    path = f"/ops/operations/{made['operation_id']}"
    wait_until(lambda: mended("GET", path)[1]["progress"].get("tried", 0) >= 2)
    mended("POST", f"{path}/pause", WHY)
    at = mended("GET", path)[1]["progress"]["tried"]
    assert (len(db.emitted()), mended("GET", path)[1]["state"]) == (at, "PAUSED")

    db.rows("UPDATE operation SET plan = jsonb_set(plan, '{rate}', '1000')")
    for ask in port(db, Rules(frozenset(Mode), patient=True)):
        ask("POST", f"{path}/resume", WHY)
        assert rests(ask, made["operation_id"])["progress"]["outcomes"] == {"DONE": 20}
    assert len(db.emitted()) == 20


def test_a_thousand_are_redriven_at_a_rate_with_a_pause_between(db: Database, mended: Ask) -> None:
    """At 50 a second, paused and resumed by a person: each goes through once, each deed is in the audit."""
    made = begin(mended, "redrive", group_of(db, 1000), rate=50.0)
    path = f"/ops/operations/{made['operation_id']}"
    wait_until(lambda: mended("GET", path)[1]["progress"].get("tried", 0) >= 50)
    assert mended("POST", f"{path}/pause", WHY)[0] == 200
    at = mended("GET", path)[1]["progress"]["tried"]
    assert (at < 1000, len(db.emitted())) == (True, at)
    assert mended("POST", f"{path}/resume", WHY)[0] == 200

    done = rests(mended, made["operation_id"])

    assert (done["state"], done["progress"]["outcomes"], len(db.emitted())) == ("DONE", {"DONE": 1000}, 1000)
    actions = Counter(action for action, _, _ in audited(db))
    assert actions.pop("parked-redrive") == 1000
    assert set(actions.values()) == {1}, actions


def test_a_group_is_discarded_and_one_at_a_time_runs(db: Database, mended: Ask) -> None:
    """Each discard is told and undoable; while an operation runs no other one of its kind is begun."""
    group = group_of(db, 4)
    made = begin(mended, "discard", group, rate=0.001)
    _, seen = mended("POST", "/ops/parked/redrive", {**WHY, "group": group, "dry_run": True})
    body = {**WHY, "group": group, "selection": seen["selection"]}
    assert mended("POST", "/ops/parked/redrive", body)[1]["rule"] in ("RUNNING", "SELECTION_CHANGED")
    mended("POST", f"/ops/operations/{made['operation_id']}/cancel", WHY)

    rests(mended, begin(mended, "discard", group)["operation_id"])
    assert db.rows("SELECT DISTINCT state FROM parked") == [("DISCARDED",)]
    assert db.one("SELECT count(*) FROM outbox WHERE type = 'input.discarded'") == 4
