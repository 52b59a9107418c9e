"""Each kind of cause has its sentence, made of documents alone; whoever waits is asked first."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from why.tests.documents import (
    CAPTURED,
    CHARGING,
    HELD,
    ORDER,
    at,
    case,
    ended,
    fact,
    look,
    row,
    task,
)

from quadrille_why import Case, explain

CHARGED, PLACED, RESERVED = fact("payment.charged", 1), fact("order.placed", 2), fact("stock.reserved", 3)
GARBAGE = row(
    "unknown", 21, "UNDECODABLE", "it has no ce_id", bytes=7, headers=[], offset=21, state="DEAD",
    id="01a21c07-57f0-8000-8000-000000001c07",
)  # fmt: skip
BEHIND = row("payment.charged", 1, "BEHIND", "behind an earlier one of its order", attempts=0, offset=22)
KNOWN = [one["id"] for one in (CHARGED, PLACED, RESERVED)]
ALL_HEARD = {"handled": KNOWN}
REFUSED = "connection refused, 127.0.0.1:8203"
WAITS = "…9cc6 waits 18 min for"
PAID = {"said": [CHARGED], "look": CAPTURED}


def test_the_dead_end_is_told_as_the_design_tells_it() -> None:
    """A 7-byte record parked before the fact that is waited for: all lines, as operators.md has them."""
    stuck = fact("order.stuck", 9, clock="21:47:22")
    order = {"look": look(attention="STUCK"), "parked": [GARBAGE, BEHIND], "said": [stuck]}
    back = {"kind": "VOID", "amount_minor": 2500, "currency": "EUR", "at": at("21:47:21")}
    paid = {"said": [CHARGED], "look": {**CAPTURED, "state": "REFUNDED", "entries": [*CAPTURED["entries"], back]}}  # type: ignore[misc]  # a list

    told = list(explain(case({"order": order, "payment": paid, "inventory": {"look": HELD}})).shown())

    assert told == [
        f"{WAITS} order itself: payment.charged (25.00 EUR taken 21:42:19) is parked behind an unreadable record",
        (
            "  parked    order: payment.events[5]@21, 7 bytes, no headers, UNDECODABLE since 21:42:22, tried 3 times, "
            "next never (dead)"
        ),
        "  error     it has no ce_id",
        "  behind    payment.charged payment.events[5]@22",
        "  money     25.00 EUR taken 21:42:19, given back 21:47:21       goods  1 × SKU-TEA held",
        "  usually   0.3 s (p99 1.2 s) to the end; called stuck 21:47:22",
        (
            "  now       quadrille parked discard --service order 01a21c07-57f0-8000-8000-000000001c07 --reason '…'"
            "       then it goes on by itself"
        ),
    ]


def test_whoever_else_holds_the_same_record_is_named_too() -> None:
    """All who hear a topic got the record: one command, which names no service, rids all of them of it."""
    given = {"order": parked(GARBAGE, BEHIND), "payment": PAID, "inventory": {"parked": [GARBAGE]}}
    answer = explain(case(given))
    [also] = [line for line in answer.lines if line.label == "also"]
    assert also.text == "inventory holds the same record: the command is for both"
    assert answer.command == f"quadrille parked discard {GARBAGE['id']} --reason '…'"


def parked(*rows: dict[str, Any], **order: Any) -> dict[str, Any]:  # noqa: ANN401 - members of a document
    return {"look": look(**order), "parked": list(rows), "said": [PLACED]}


RAISED = row("payment.charged", 1, "HANDLER", "KeyError while handling payment.charged")
FRAMES = "order/handlers.py:9:note\norder/domain.py:72:settle\nx/dict.py:1:pop"
FRAMED = {
    "exception": "KeyError",
    "frames": FRAMES,
    "fingerprint": "3f9c00aa11bb",
}
UNDOING = look(
    reason="CUSTOMER", status="CANCELLING", owed=[{"owes": "payment", "fact": "payment.refunded"}],
    history=[["CANCELLING", at("21:43:00"), "x"]],
)  # fmt: skip
REFUSAL = look(
    status="COMPENSATION_FAILED", reason="CUSTOMER", failed=[["payment", "BUSINESS", "card_closed"]],
    owed=[{"owes": "payment", "fact": "payment.refunded"}],
)  # fmt: skip
IN_FLIGHT = {"look": CHARGING, "tasks": [task("charge_card")], "breaker": "CLOSED", **ALL_HEARD}
NOT_READ = {"unread": [{"topic": "payment.events", "partition": 5, "next_offset": 20, "end": 22}]}
DISCARDED = row(
    "payment.charged", 1, "HANDLER", "KeyError while …", state="DISCARDED", ended_by="ann", reason="a mistake"
)
REPLAY = {
    "operation_id": "01a1fd6b", "state": "DONE", "topic": "payment.events", "type": None, "events": [],
    "kept_back": {"mail": 1}, "actor": "local", "reason": "once more", "types": ["payment.charged"],
}  # fmt: skip
SILENT = {"source": "payment", "since_at": at("21:44:00")}
AWAY = {"missing": {"broker": "no answer within 0.4 s"}}
BOUNCED = {"notices": [{"kind": "confirmed", "state": "FAILED", "because": "550", "at": at("21:43:02")}]}
CANCEL = {"number": 1, "at": at("21:43:00"), "actor": "ann", "action": "cancel", "reason": "fraud"}

ENDED: dict[str, tuple[Case, str]] = {
    "OUT_OF_STOCK": (
        case({"order": {"look": ended("CANCELLED", "OUT_OF_STOCK", shortages=[["SKU-NONE", 1, 0]])}}),
        "…9cc6 is CANCELLED: out of stock: SKU-NONE asked 1, available 0",
    ),
    "PAYMENT_DECLINED": (
        case({"order": {"look": ended("CANCELLED", "PAYMENT_DECLINED", code="expired_card")}}),
        "…9cc6 is CANCELLED: the card was declined (expired_card)",
    ),
    "CONFIRMATION_REJECTED": (
        case({"order": {"look": ended("CANCELLED", "CONFIRMATION_REJECTED", rule="its customer is blocked")}}),
        "…9cc6 is CANCELLED: its confirmation was rejected: its customer is blocked",
    ),
    "PARTICIPANT_AWAY": (
        case({"order": {"look": ended("CANCELLED", "PARTICIPANT_AWAY")}}),
        "…9cc6 is CANCELLED: inventory was away, and orders that wait for it fail fast",
    ),
    "DEADLINE": (
        case({"order": {"look": ended("CANCELLED", "DEADLINE")}}),
        "…9cc6 is CANCELLED: it was not decided by its deadline, 21:47:19",
    ),
    "CUSTOMER": (
        case({"order": {"look": ended("CANCELLED", "CUSTOMER")}}),
        "…9cc6 is CANCELLED: its customer cancelled it 21:43:00",
    ),
    "OPERATOR": (
        case({"order": {"look": ended("CANCELLED", "OPERATOR"), "audit": [{**CANCEL, "outcome": "ACCEPTED"}]}}),
        "…9cc6 is CANCELLED: an operator cancelled it 21:43:00: ann, 'fraud'",
    ),
    "CONFIRMED": (case({"order": {"look": ended("CONFIRMED", None)}}), "…9cc6 is CONFIRMED: 42 s after it was placed"),
    "MAIL_BOUNCED": (
        case({"order": {"look": ended("CONFIRMED", None)}, "notification": {"look": BOUNCED}}),
        "…9cc6 is CONFIRMED: 42 s after it was placed; its mail bounced: 550",
    ),
}  # fmt: skip
HELD_UP: dict[str, tuple[Case, str]] = {
    "CHARGE_IN_FLIGHT": (
        case({"order": {"look": look()}, "payment": IN_FLIGHT}),
        (f"{WAITS} payment: the charge of 25.00 EUR is in flight, attempt 2, next try 22:00:24; "
        "the last one failed: TransientError"),
    ),
    "CHARGE_UNKNOWN": (
        case({"order": {"look": look()}, "payment": {**IN_FLIGHT, "look": {**CHARGING, "state": "UNKNOWN"},
                                                     "tasks": [task("inquire_charge")]}}),
        (f"{WAITS} payment: nobody knows whether the card was charged: payment asks the processor, attempt 2, "
        "next try 22:00:24"),
    ),
    "REFUND_REFUSED": (
        case({"order": {"look": REFUSAL}}),
        f"{WAITS} payment: the refund was refused (card_closed): a person has to end it",
    ),
    "WORKER_GONE": (
        case({"order": {"look": look(), "said": [PLACED], "silent": [SILENT]},
              "inventory": ALL_HEARD}, away={"payment-worker": REFUSED}),
        f"{WAITS} payment: its worker is gone: order.placed lies in the broker, unread",
    ),
    "PROCESSOR_AWAY": (
        case({"order": {"look": look()}, "payment": {**IN_FLIGHT, "breaker": "OPEN"}}),
        (f"{WAITS} payment: the card processor is away: the charge of 25.00 EUR is tried again, attempt 2, "
        "next try 22:00:24"),
    ),
    "BROKER_AWAY": (
        case({"order": {"look": look(), "said": [fact("order.placed", 2, published=False)], **AWAY}}),
        f"{WAITS} order itself: Kafka does not answer: order.placed waits in order's outbox",
    ),
    "RELAY_WAITING": (
        case({"order": {"look": look()},
              "payment": {**PAID, "said": [fact("payment.charged", 1, published=False)]}},
             away={"payment-relay": REFUSED}),
        f"{WAITS} payment: payment.charged (25.00 EUR taken 21:42:19) waits in payment's outbox: its relay is gone",
    ),
    "HANDLER_RAISED": (
        case({"order": parked({**RAISED, **FRAMED}), "payment": {**PAID, **ALL_HEARD}}),
        (f"{WAITS} order itself: payment.charged (25.00 EUR taken 21:42:19) is parked: its handler raised KeyError in "
        "order/domain.py:72:settle"),
    ),
    "UNREADABLE": (
        case({"order": parked(GARBAGE), "payment": IN_FLIGHT, "inventory": ALL_HEARD}),
        f"{WAITS} order itself: an unreadable record is parked, and nothing of this order goes past it",
    ),
    "BEHIND": (
        case({"order": parked(GARBAGE, BEHIND), "payment": {**PAID, **ALL_HEARD}}),
        f"{WAITS} order itself: payment.charged (25.00 EUR taken 21:42:19) is parked behind an unreadable record",
    ),
    "REPLAY_WITHHELD": (
        case({"order": {"look": look(), "parked": [DISCARDED], "withheld": [REPLAY]}, "payment": PAID}),
        f"{WAITS} order itself: payment.charged was discarded, and a replay kept it back: it leads to mail",
    ),
    "DISCARDED": (
        case({"order": {"look": look(), "parked": [DISCARDED]}, "payment": PAID}),
        f"{WAITS} order itself: payment.charged was discarded by ann: a mistake",
    ),
    "IN_BROKER": (
        case({"order": {"look": look(), **NOT_READ}, "payment": PAID}),
        f"{WAITS} order itself: payment.charged (25.00 EUR taken 21:42:19) lies in the broker, not read yet",
    ),
    "SERVICE_AWAY": (
        case({"order": {"look": look()}}, gone=("payment",), away={"payment-worker": REFUSED, "payment-api": REFUSED}),
        f"{WAITS} payment: it does not answer ({REFUSED}), and owes payment.charged",
    ),
    "UNSAID": (
        case({"order": {"look": look()}}),
        f"{WAITS} payment: payment.charged is not said yet, and nothing is found that holds it up",
    ),
}  # fmt: skip
UNKNOWN: dict[str, tuple[Case, str]] = {
    "INTAKE_SHUT": (
        case({"order": {"intake": {"state": "PAUSED", "since_at": at("21:40:00")}}}),
        "…9cc6 was never taken here: order's intake is PAUSED since 21:40:00 (an operator paused it)",
    ),
    "UNKNOWN": (case({"order": {"intake": {"state": "OPEN", "since_at": at("21:40:00")}}}),
                "…9cc6 was never placed here"),
    "ORDER_AWAY": (
        case({"payment": {"look": CAPTURED}}, gone=("order",), away={"order-worker": REFUSED, "order-api": REFUSED}),
        f"…9cc6: order does not answer ({REFUSED}), which alone knows where it stands; payment says CHARGED",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "told"), {**ENDED, **HELD_UP, **UNKNOWN}.items(), ids=[*ENDED, *HELD_UP, *UNKNOWN])
def test_each_cause_has_its_sentence(code: str, told: tuple[Case, str]) -> None:
    """One sentence a cause; its code is what a program goes by."""
    answer = explain(told[0])
    assert (answer.code, answer.sentence) == (code, told[1])
    assert answer.document()["sentence"] == told[1]


def test_an_intake_that_the_disk_guard_holds_says_what_is_full() -> None:
    """The measure stands in the sentence; whose relay is behind is the command."""
    intake = {"state": "GUARDED", "since_at": at("21:40:00"), "detail": "1.6 GB of log kept"}
    answer = explain(case({"order": {"intake": intake}}))

    assert (answer.code, answer.command) == ("INTAKE_SHUT", "quadrille relay status")
    assert answer.sentence.endswith("is GUARDED since 21:40:00 (the disk is filling: 1.6 GB of log kept)")
    assert answer.then == "it opens by itself when there is room"


@pytest.mark.parametrize("service", ["order", "payment"])
def test_whoever_waits_is_asked_first(service: str) -> None:
    """The charge is in flight, its worker gone, its relay too: what order itself holds is named all the same."""
    away = {"payment-worker": REFUSED, "payment-relay": REFUSED}
    head = row("stock.reserved", 3, "HANDLER", "KeyError while handling stock.reserved", topic="inventory.events")
    given: dict[str, Any] = {"order": {"look": look()}, "payment": IN_FLIGHT}
    given[service] = {**given[service], "parked": [head]}
    answer = explain(case(given, away=away))
    assert (answer.waits_for, answer.code) == (service, "HANDLER_RAISED")


def test_a_record_of_another_saga_is_no_reason() -> None:
    """What was parked and went on, or was discarded long before the fact that is waited for, holds nothing up."""
    old = row("stock.reserved", 3, "HANDLER", "KeyError while …", state="DISCARDED", ended_by="ann")
    answer = explain(case({"order": {"look": look(), "parked": [old], **ALL_HEARD}, "inventory": {"said": [RESERVED]},
                           "payment": IN_FLIGHT}))  # fmt: skip
    assert answer.code == "CHARGE_IN_FLIGHT"


def test_a_failure_of_the_outside_is_named_with_its_address() -> None:
    """What the task keeps of it is told: kind, phrase, address; a refused connection needs no breaker to be away."""
    failure = {"kind": "ConnectionRefusedError", "address": "127.0.0.1:8011", "phrase": "connection refused"}
    payment = {**IN_FLIGHT, "tasks": [task("charge_card", failure=failure)]}
    answer = explain(case({"order": {"look": look()}, "payment": payment}))
    assert answer.code == "PROCESSOR_AWAY"
    assert "connection refused, 127.0.0.1:8011" in answer.lines[0].text


def test_while_it_is_undone_the_cause_is_told_beside_the_wait() -> None:
    """A cancelled order waits for its refund: the sentence says for whom, a line who cancelled and when."""
    payment = {**IN_FLIGHT, "look": {**CAPTURED, "state": "REFUNDING"}, "tasks": [task("refund_card")]}
    shown = list(explain(case({"order": {"look": UNDOING}, "payment": payment})).shown())
    assert shown[0].startswith("…9cc6 waits 18 min for payment: the refund of 25.00 EUR is in flight, attempt 2")
    assert "  cause     CUSTOMER: its customer cancelled it 21:43:00" in shown
    assert "  usually   0.2 s (p99 1.9 s) to be undone" in shown


def test_what_is_missing_is_said() -> None:
    """A worker that is away, a part that was not read in time: each has its line, and the rest is told."""
    late = {"look": look(), "missing": {"said": "not read within 400 ms"}}
    answer = explain(case({"order": late, "payment": IN_FLIGHT}, away={"notification-worker": REFUSED}))
    assert answer.missing == {"notification-worker": REFUSED, "order: said": "not read within 400 ms"}
    assert f"  missing   notification-worker: {REFUSED} (its api told the rest)" in list(answer.shown())


def test_an_old_event_is_not_taken_for_unread() -> None:
    """Ids leave the inbox after days: what was said longer ago counts as handled, not as lost."""
    said = {**CHARGED, "at": "2026-11-01T21:42:19.000Z"}
    answer = explain(case({"order": {"look": ended("CONFIRMED", None)}, "payment": {"said": [said]}}))
    assert answer.code == "CONFIRMED"
    assert answer.waits_for is None


def test_the_document_names_the_order_and_the_way_out() -> None:
    """A program gets the code, who holds it, the command and what follows."""
    document = explain(case({"order": parked(GARBAGE, BEHIND), "payment": PAID})).document()
    assert document["order_id"] == ORDER
    assert document["waits_for"] == "order"
    assert document["now"]["command"].startswith("quadrille parked discard --service order 01a21c07")
    assert document["now"]["then"] == "then it goes on by itself"


def test_consumers_that_rest_are_named_with_the_command_that_ends_it() -> None:
    """What lies unread for a service that somebody paused is not "being read": who paused it, since when, why."""
    rests = {"since_at": at("21:42:20"), "cause": "by ann: a move"}
    payment = {"paused": rests, "unread": [{"topic": "inventory.events", "partition": 5, "next_offset": 7, "end": 9}]}
    order = {"look": look(), "said": [PLACED], **ALL_HEARD}
    heard: dict[str, Any] = {"handled": [PLACED["id"]], **payment}

    answer = explain(case({"order": order, "inventory": {"said": [RESERVED], **ALL_HEARD}, "payment": heard}))

    assert (answer.code, answer.waits_for) == ("CONSUMER_PAUSED", "payment")
    assert answer.sentence.endswith("stock.reserved lies in the broker, unread: payment's consumers are paused")
    assert answer.command == "quadrille consumers resume payment --reason '…'"
    assert "payment: since 21:42:20, by ann: a move" in [line.text for line in answer.lines]


def test_lines_are_folded_to_the_screen_and_commands_can_be_copied() -> None:
    """No line is longer; a command goes on with a backslash and is the same when a shell reads it."""
    given = {"order": parked(GARBAGE, BEHIND), "payment": PAID, "inventory": {"parked": [GARBAGE]}}
    answer = explain(case(given))
    told = "\n".join(answer.shown(60))

    assert max(map(len, told.splitlines())) <= 60
    command = told[told.index("quadrille parked") : told.index("then it goes on")]
    assert shlex.split(command.replace("\\\n", " ")) == shlex.split(answer.command)
    assert "\n".join(answer.shown()) == "\n".join(answer.shown(1000))
