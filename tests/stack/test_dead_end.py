"""The dead end, ended: an unreadable record freezes an order; every command says so, and three commands end it.

Seven bytes keyed with an order's id lie on payment's topic before its payment does. All is asked through the command
line, on a screen of 80 columns.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer

from quadrille.kafka.config import producer_settings
from quadrille_cli.services import SERVICES
from tests.conftest import Shop

COLUMNS = 80
TEA = [("SKU-TEA", 1)]
GARBAGE = b"\x07garbage"[:7]
HELD = "SELECT type FROM parked WHERE line = %s AND state IN ('OPEN', 'DEAD') ORDER BY place"
DEAD = "SELECT 1 FROM parked WHERE line = %s AND state = 'DEAD'"
AUDIT = "SELECT action, reason, actor FROM audit WHERE reason = %s"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said: its exit code, both its streams as they are, and as one line of words."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it, as if the screen had no edge."""
        return re.sub(r"\s+", " ", (self.out + self.err).replace("\\\n", " "))


@dataclass(frozen=True, slots=True)
class Frozen:
    """An order that is frozen, where the record lies that freezes it, and a terminal."""

    shop: Shop
    order: str
    place: str

    def type(self, line: str) -> Said:
        """Type a line; no line of the answer is longer than the screen."""
        env = {**os.environ, "QUADRILLE_DATA": str(self.shop.stack.data), "COLUMNS": str(COLUMNS)}
        command = [sys.executable, "-m", "quadrille_cli", *shlex.split(line.replace("\\\n", " "))[1:]]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        shown = f"$ {line}\n{done.stdout}{done.stderr}[{done.returncode}]"
        print(shown)  # noqa: T201 - what a reader of a failure sees
        assert [one for one in (done.stdout + done.stderr).splitlines() if len(one) > COLUMNS] == []
        return Said(done.returncode, done.stdout, done.stderr)

    def until(self, line: str, pattern: str) -> Said:
        """Type a line again until it says so: on a busy machine a service may be named as one that did not answer."""

        def told() -> Said | None:
            said = self.type(line)
            return said if re.search(pattern, said.text) else None

        return self.shop.until(told, f"{line} says {pattern}")

    def holders(self) -> list[str]:
        """Who holds something of the order parked."""
        return [name for name in SERVICES if self.shop.sql(name, HELD, self.order)]


@pytest.fixture
def frozen(shop: Shop) -> Frozen:
    """An order whose payment lies behind seven bytes, given up by whoever hears payment."""
    order = shop.submit(TEA, "tok_pending_15s")
    places: list[str] = []
    producer = Producer(producer_settings(shop.stack.kafka_bootstrap))
    producer.produce(
        "payment.events", GARBAGE, order.encode(),
        on_delivery=lambda _, m: places.append(f"{m.topic()}[{m.partition()}]@{m.offset()}"),
    )  # fmt: skip
    assert producer.flush(60) == 0
    shop.until(lambda: shop.sql("order", DEAD, order), "order has given it up")
    shop.until(lambda: ("payment.charged",) in shop.sql("order", HELD, order) or None, "the payment lies behind it")
    return Frozen(shop, order, places[0])


def copied(why: Said) -> str:
    """The command that `why` says to type now, as one copies it from the screen."""
    lines = why.out[why.out.index("\n  now ") + 1 :].splitlines()
    command = [lines[0][12:]]
    for line in lines[1:]:
        if not command[-1].endswith("\\"):
            break
        command.append(line)
    return "\n".join(command)


def test_three_commands_end_it(frozen: Frozen) -> None:
    """Why names the record, its place and its age; shown, then discarded with a reason, the order ends by itself."""
    shop, short = frozen.shop, frozen.order[-4:]
    held = frozen.holders()
    assert "order" in held

    why = frozen.until(f"quadrille why {frozen.order[-12:]}", r"parked order: .* also inventory .* goods 1 ×")
    assert why.code == 0
    assert re.match(
        rf"…{short} waits [\d.]+ (s|min) for order itself: payment\.charged \(12\.50 EUR taken \S+\) is parked "
        "behind an unreadable record ", why.text,
    )  # fmt: skip
    assert re.search(
        rf"parked order: {re.escape(frozen.place)}, 7 bytes, no headers, UNDECODABLE since \d\d:\d\d:\d\d, "
        r"tried \d times, next never \(dead\)", why.text,
    )  # fmt: skip
    assert [name for name in held if f"also {name} holds the same record" in why.text] == held[1:]
    command = copied(why)
    record = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", command)
    assert record

    show = frozen.type(f"quadrille parked show {record[0][-8:]}")
    assert show.code == 0
    assert (record[0] in show.out, frozen.place in show.out, GARBAGE.hex() in show.out) == (True, True, True)
    assert re.search(r"behind \w+ payment\.charged", show.text)

    reason = f"seven bytes of nobody {short}"
    discard = frozen.type(command.replace("'…'", shlex.quote(reason)))
    assert discard.code == 0
    assert [name for name in held if f"{name}: {record[0][-8:]} unknown of order" in discard.text] == held

    assert shop.ended(frozen.order)["status"] == "CONFIRMED"
    assert frozen.holders() == []
    frozen.until(f"quadrille why {frozen.order}", f"{short} is CONFIRMED")
    for name in held:
        [(action, _, actor)] = shop.sql(name, AUDIT, reason)
        assert (action, actor) == ("parked-discard", "local")
    listed = frozen.type("quadrille audit list --action parked-discard --limit 5")
    assert (listed.code, reason in listed.text) == (0, True)


def test_no_command_lies_about_it(frozen: Frozen) -> None:
    """Stuck names order and the cause; cancel, resolve and replay say what stands in the way and how it is removed."""
    shop, order = frozen.shop, frozen.order
    way = r"quadrille parked discard [0-9a-f-]{36} --reason"

    cause = r"payment\.charged \(12\.50 EUR .*? is parked behind an unreadable record"
    waits = rf"…{order[-4:]} order [\d.]+ (s|min) \S+ {cause}"
    assert frozen.until("quadrille stuck --older-than 0s --limit 200", waits).code == 0

    resolve = frozen.type(
        f"quadrille resolve {order} --participant payment --how WRITTEN_OFF --evidence none --reason 'a try'"
    )
    assert (resolve.code, "PARKED_HERE" in resolve.text, frozen.place in resolve.text) == (6, True, True)
    assert re.search(way, resolve.text)
    assert shop.sql("payment", "SELECT 1 FROM audit WHERE subject = %s", order) == []

    replay = frozen.type(f"quadrille replay --topic payment.events --from beginning --order {order} --service order")
    assert "PARKED_HERE" in replay.text
    assert "quadrille parked list --service order" in replay.text
    assert "--into live" not in replay.text

    cancel = frozen.type(f"quadrille orders cancel {order[-12:]}")
    assert (cancel.code, "CANCELLING" in cancel.out, "PARKED_HERE" in cancel.text) == (8, True, True)
    assert (frozen.place in cancel.text, bool(re.search(way, cancel.text))) == (True, True)
    listed = frozen.type("quadrille parked list")
    assert (listed.code, order[-8:] in listed.text, "UNDECODABLE" in listed.text) == (0, True, True)

    assert frozen.type(f"quadrille parked discard {order} --reason 'it holds a cancel up'").code == 0
    ended = shop.ended(order)
    assert (ended["status"], ended["reason"], shop.kept(order)) == ("CANCELLED", "CUSTOMER", 0)
    told = json.loads(frozen.until(f"quadrille why {order} -o json", '"missing": {}').out)
    assert told["code"] == "CUSTOMER"
