"""An unreadable record on a topic of the whole shop: seen, looked at, ended by the commands that are printed."""

from __future__ import annotations

import json
import shlex
import uuid
from dataclasses import replace

import pytest

from quadrille_cli.services import PROGRAMS
from tests.conftest import Shop
from tests.replay.operator_desk import Operator

TEA = [("SKU-TEA", 1)]
DUE = "UPDATE parked SET retry_at = now() WHERE line = %s AND state = 'OPEN' AND retry_at IS NOT NULL RETURNING 1"
STATE = "SELECT state FROM parked WHERE line = %s ORDER BY place"


@pytest.fixture
def operator(shop: Shop) -> Operator:
    """An operator at the session's stack."""
    return Operator(shop)


def unreadable(shop: Shop, count: int = 1) -> list[str]:
    """Put seven bytes without a header where payment reads, each under an order of its own, until all are dead.

    The waits of the ladder are cut short; that they are what they should be is proven elsewhere.
    """
    order = shop.submit(TEA)
    shop.ended(order)
    like = next(r for r in shop.records(order) if r.type == "stock.reserved")
    keys = [str(uuid.uuid4()) for _ in range(count)]
    shop.send_again([replace(like, key=key, headers=(), value=b"\x00\xffjunk!") for key in keys], 1)
    for key in keys:
        shop.until(lambda: shop.sql("payment", STATE, key) or None, f"{key} is parked")  # noqa: B023 - called at once
        shop.until(lambda: shop.sql("payment", DUE, key) == [] or None, f"{key} is dead")  # noqa: B023 - as above
        assert shop.sql("payment", STATE, key) == [("DEAD",)]
    return keys


def printed(text: str) -> list[list[str]]:
    """Return the commands a page prints, each as its words after `quadrille`."""
    joined = text.replace("\\\n", " ")
    found = [line.partition("quadrille ")[2] for line in joined.splitlines() if "quadrille " in line]
    return [shlex.split(line) for line in found]


def test_a_dead_end_ends_with_three_commands_that_are_printed(shop: Shop, operator: Operator) -> None:
    """List, show, discard: each tells the next, tells the truth, and fits 80 columns; and what is undone is parked."""
    [order] = unreadable(shop)

    code, listed, _ = operator.quadrille("parked", "list", "--service", "payment")
    assert (code, "UNDECODABLE" in listed, order[-8:] in listed) == (0, True, True), listed
    assert max(map(len, listed.splitlines())) <= 80

    [(found,)] = shop.sql("payment", "SELECT id::text FROM parked WHERE line = %s", order)
    code, shown, _ = operator.quadrille("parked", "show", order[-8:], "--service", "payment")
    assert operator.quadrille("parked", "show", order[-8:])[0] == 0  # order hears it too: both are shown
    assert (code, found in shown, "dead: it waits for a person" in shown) == (0, True, True), shown
    assert (b"\x00\xffjunk!".hex() in shown, "stock" not in shown.partition("raw")[2]) == (True, True)
    again, drop = printed(shown)

    code, out, _ = operator.quadrille(*again)
    assert (code, "failed again:\n  UNDECODABLE" in out) == (1, True), out
    code, out, _ = operator.quadrille(*drop)
    assert (code, "is discarded" in out) == (0, True), out
    assert shop.sql("payment", STATE, order) == [("DISCARDED",)]

    [undo] = printed(out)
    code, out, _ = operator.quadrille(*undo)
    assert (code, "failed again" in out) == (1, True), out
    operator.quadrille(*drop)
    subjects = shop.sql("payment", "SELECT action FROM audit WHERE subject = %s ORDER BY number", order)
    assert [action for (action,) in subjects] == [
        "parked-redrive", "parked-discard", "parked-redrive", "parked-discard",
    ]  # fmt: skip


def test_what_is_told_of_a_dead_input_is_published(shop: Shop, operator: Operator) -> None:
    """Its news lie on ops.events in their order, and its copy on payment's dead letters, in Avro."""
    [order] = unreadable(shop)
    operator.quadrille("parked", "discard", order, "--service", "payment", "--reason", "a test")

    kinds = ["input.parked", "input.dead", "input.discarded"]

    def news() -> list[str]:
        """What payment has told: order hears the topic too, and tells of its own."""
        return [kind for kind, body in shop.told("ops.events", order) if body["service"] == "payment"]

    shop.until(lambda: news() == kinds or None, "all three are told")
    [(kind, copy)] = shop.until(lambda: shop.told("payment.dead-letters", order) or None, "the copy is there")
    assert (kind, copy["raw"], copy["cut"]) == ("input.buried", b"\x00\xffjunk!", False)
    assert str(copy["place"]).startswith("inventory.events[")


def test_a_group_is_looked_at_then_done_as_it_was_seen(shop: Shop, operator: Operator) -> None:
    """Without --yes nothing is done and the command is printed; typed so, exactly that is done, with its progress."""
    orders = unreadable(shop, 3)
    [(group,)] = shop.sql("payment", "SELECT DISTINCT fingerprint FROM parked WHERE line = ANY(%s)", orders)

    code, looked, _ = operator.quadrille(
        "parked", "discard", "--service", "payment", "--group", group, "--reason", "a test", "--rate", "1000"
    )
    assert (code, "nothing is done yet" in looked) == (0, True), looked
    assert max(map(len, looked.splitlines())) <= 80
    [command] = printed(looked)

    code, done, _ = operator.quadrille(*command)
    assert (code, "3 of 3, DONE" in done, "3 discarded" in done) == (0, True, True), done
    code, out, err = operator.quadrille(*command)
    assert (code, out, "quadrille parked list" in err) == (5, "", True)
    listed = operator.quadrille("operations", "ls", "--service", "payment")[1]
    assert "parked discard" in listed


def test_the_examples_of_the_help_pages_run_and_mistakes_exit_as_they_should(shop: Shop, operator: Operator) -> None:
    """Two examples each; unknown ids exit 5, wrong usage 2, nothing answering 7, and each says what to do."""
    [order] = unreadable(shop)

    def put(line: list[str]) -> list[str]:
        """An example with this order's id, at payment: order hears the topic too, and has it parked as well."""
        return [*(order if word == "e40f9cb1" else word for word in line), "--service", "payment"]

    codes = {"list": (0, 0), "show": (0, 0)}
    for verb, wanted in codes.items():
        lines = [put(line) for line in operator.examples("parked", verb)]
        assert tuple(operator.quadrille(*line)[0] for line in lines) == wanted, verb
    first, second = operator.examples("parked", "redrive")
    assert operator.quadrille(*put(first))[0] == 1
    assert operator.quadrille(*second)[0] == 5
    first, second = operator.examples("parked", "discard")
    assert operator.quadrille(*put(first))[0] == 0
    assert operator.quadrille(*second)[0] == 5

    told = {
        ("parked", "show", "abc"): (2, "4 digits or more"),
        ("parked", "show", str(uuid.UUID(int=7))): (5, "nothing is parked"),
        ("parked", "redrive"): (2, "--group"),
        ("parked", "discard", order): (2, "say why"),
        ("parked", "discard", order, "--service", "payment", "--reason", "again"): (6, "NOT_PARKED"),
        ("parked", "redrive", "--group", "x"): (2, "--service"),
        ("parked", "list", "--state", "LOST"): (2, "OPEN, DEAD"),
    }
    for words, (wanted_code, text) in told.items():
        code, out, err = operator.quadrille(*words)
        assert (code, text in err, out) == (wanted_code, True, ""), (words, code, err)
    document = json.loads(operator.quadrille("parked", "list", "-o", "json")[1])
    assert [one["service"] for one in document] == [*PROGRAMS]
