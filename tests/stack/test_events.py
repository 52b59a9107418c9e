"""`events`, `timeline` and `watch`: any topic decoded, whatever lies there; never `none` unless all was read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from quadrille.kafka.config import producer_settings
from quadrille.replay.archive import records, verify
from quadrille_cli.commands.timeline import tree
from quadrille_cli.event_log import Reading, printable
from tests.conftest import Shop

HOSTILE = b"\x1b[31m<script>alert(1)</script>\x00"
SECTION_6 = [
    "event_id", "type", "source", "order_id", "sequence", "time", "causation_id", "correlation_id", "trace_id", "topic",
    "partition", "offset", "schema_id", "body",
]  # fmt: skip


def run(shop: Shop, *words: str) -> tuple[int, str, str]:
    """The command on a screen of 80 columns: exit code, stdout, stderr."""
    env = {**os.environ, "QUADRILLE_DATA": str(shop.stack.data), "COLUMNS": "80"}
    line = [sys.executable, "-m", "quadrille_cli", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def ended(shop: Shop) -> str:
    """An order that has ended, and all of whose events lie on their topics."""
    order_id = shop.submit([("SKU-TEA", 2)])
    shop.ended(order_id)
    shop.until(lambda: len(shop.records(order_id)) >= 6, "its events are published")
    return order_id


def test_every_event_of_an_order_is_listed_and_the_end_was_read(shop: Shop, ended: str) -> None:
    """By the end of its id: each record there is, in 80 columns, and how far each topic was read."""
    code, out, err = run(shop, "events", "list", "--order", ended[-8:])

    listed = {line.split()[-1] for line in out.splitlines()[1:]}
    assert (code, listed) == (0, {f"{r.topic}[{r.partition}]@{r.offset}" for r in shop.records(ended)}), err
    assert max(map(len, out.splitlines())) <= 80
    assert len(re.findall(r"\.events: read to offset ([\d,]+) of \1, 12 partitions", err)) == 4


def test_an_event_is_the_document_of_every_interface(shop: Shop, ended: str) -> None:
    """Its members are those of the page; one is found again by its place, its id and the end of that."""
    _, out, _ = run(shop, "events", "list", "--order", ended, "--type", "payment.charged", "-o", "jsonl")
    [charged] = [json.loads(line) for line in out.splitlines()]

    assert list(charged) == SECTION_6
    assert (charged["order_id"], charged["source"], charged["sequence"]) == (ended, "quadrille/payment", 1)
    assert charged["body"]["order_id"] == ended
    place = f"{charged['topic']}[{charged['partition']}]@{charged['offset']}"
    for which in (place, charged["event_id"], charged["event_id"][-12:]):
        code, out, err = run(shop, "events", "show", which, "-o", "json")
        assert code == 0, err
        assert {name: value for name, value in json.loads(out).items() if name != "headers"} == charged


def test_what_cannot_be_read_is_shown_as_bytes_with_the_reason(shop: Shop, ended: str) -> None:
    """A record of a stranger reaches no terminal as it is: its key is escaped, its value is hex, the reason is said."""
    producer = Producer(producer_settings(shop.stack.kafka_bootstrap))
    producer.produce("saga.audit", HOSTILE, b"\x1b[2Jkey", 3)
    assert producer.flush(60) == 0

    code, out, err = run(shop, "events", "list", "--topic", "saga.audit", "--partition", "3", "--from", "beginning")
    place = re.findall(r"saga\.audit\[3\]@\d+", out)[-1]
    _, whole, _ = run(shop, "events", "show", place)

    assert code == 0, err
    assert HOSTILE.hex()[:20] in "".join(out.split())
    assert "no headers" in whole
    assert HOSTILE.hex() in whole
    assert "\x1b" not in out + whole
    assert ended not in out


def test_the_logs_tell_an_orders_story(shop: Shop, ended: str) -> None:
    """By the end of its id: what was published and handled, by whom, in the order of time; no heartbeat has a line."""
    code, out, err = run(shop, "logs", "--order", ended[-8:])

    told = [(line.split()[0], json.loads(line.partition("{")[1] + line.partition("{")[2])) for line in out.splitlines()]
    assert code == 0, err
    assert [line["ts"] for _, line in told] == sorted(line["ts"] for _, line in told)
    assert {line["order_id"] for _, line in told} == {ended}
    published = {line["event_type"] for name, line in told if line["event"] == "event published"}
    assert published >= {record.type for record in shop.records(ended)}
    handled = {(name, line["event_type"]) for name, line in told if line["event"] == "input handled"}
    assert handled >= {("order-worker", "payment.charged"), ("payment-worker", "stock.reserved")}
    assert "canary.beat" not in run(shop, "logs", "order-relay")[1]
    assert run(shop, "logs", "--order", "00000000-0000-7000-8000-000000000000")[0] == 5


def test_an_orders_events_are_a_tree_of_causes(shop: Shop, ended: str) -> None:
    """What began it stands first, and each answer below and to the right of what it answers.

    The answer of the card processor is an input of its own, that no event has caused: what is said of it begins anew.
    """
    code, out, _ = run(shop, "timeline", ended[-8:])

    lines = out.splitlines()
    assert (code, lines[0].split()[2]) == (0, "order.placed")
    depth = {line.split()[2]: line.index(line.split()[2]) for line in lines}
    assert depth["order.placed"] < depth["stock.reserved"]
    assert depth["payment.charged"] < depth["order.confirmed"]
    assert len(lines) == len(shop.records(ended))


@pytest.mark.parametrize(("words", "code"), [
    (("events", "list", "--topic", "nothing.events"), 2),
    (("events", "list", "--from", "yesterday"), 2),
    (("events", "list", "--from", "offset:3"), 2),
    (("events", "show", "order.events[0]@999999999"), 5),
    (("events", "show", "order.events[99]@0"), 2),
    (("events", "show", "0000-000000000000"), 5),
    (("timeline", "00000000-0000-7000-8000-000000000000"), 5),
    (("events", "tail", "--beats", "--limit", "1"), 0),
])  # fmt: skip
def test_what_is_not_there_is_said(shop: Shop, words: tuple[str, ...], code: int) -> None:
    """Unknown topics, places and ids are refused, or told as not there once all was read."""
    assert run(shop, *words)[0] == code


@pytest.mark.parametrize("words", [("events", "list"), ("events", "show"), ("timeline",), ("watch",)])
def test_the_examples_run(shop: Shop, ended: str, words: tuple[str, ...]) -> None:
    """What the help pages show succeeds, with a real order and a real place; what waits for ever is left out."""
    shown = run(shop, *words, "--help")[1].partition("Examples:\n")[2]
    record = shop.records(ended)[0]
    place = f"{record.topic}[{record.partition}]@{record.offset}"
    for line in (line.strip().replace("'", "") for line in shown.splitlines() if line.strip()):
        own = (
            line.replace("01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", ended).replace("order.events[0]@0", place).split()[1:]
        )
        assert own == ["watch"] or run(shop, *own)[0] == 0, own


def test_a_reading_that_was_cut_short_is_not_whole() -> None:
    """How far it came is said by topic, and that it is not the end."""
    reading = Reading({("a", 0): (0, 10), ("a", 1): (5, 5)}, {("a", 0): 4})

    assert (reading.whole, list(reading.lines())) == (False, ["a: read to offset 9 of 15, 2 partitions"])
    reading.at["a", 0] = 10
    assert reading.whole


def test_a_tree_shows_each_event_once_and_every_root() -> None:
    """An event that lies there twice is shown once; one that answers itself, or what is gone, begins a tree."""
    usual = {"time": "2026-11-21T09:14:03.120Z", "sequence": 1, "topic": "a", "partition": 0, "offset": 0}
    found = [
        {**usual, "event_id": "1", "causation_id": "command", "type": "placed"},
        {**usual, "event_id": "2", "causation_id": "1", "type": "reserved"},
        {**usual, "event_id": "2", "causation_id": "1", "type": "reserved"},
        {**usual, "event_id": "3", "causation_id": "3", "type": "odd"},
    ]

    assert [re.split(r"s  |a\[", line)[1].rstrip() for line in tree(found)] == ["placed", "  reserved", "odd"]


def test_text_for_a_terminal_cannot_act_on_it() -> None:
    """Escapes, directions of text and line ends are written out; letters of any script stay."""
    assert printable("a\x1b[2J\u202eé\n\udcff".encode("utf-8", "surrogateescape")) == "a\\x1b[2J\\u202eé\\n\\xff"


def test_topics_are_exported_as_they_lie_there(shop: Shop, ended: str, tmp_path: Path) -> None:
    """Every record of an order, byte for byte, with the schemas of all; what came before a time only, if asked."""
    code, out, err = run(shop, "events", "export", "--topic", "order.events", "--topic", "payment.events",
                         str(tmp_path / "made" / "archive"))  # fmt: skip

    assert (code, err) == (0, "")
    manifest = verify(tmp_path / "made" / "archive")
    kept = [one for file in manifest["files"] for one in records(tmp_path / "made" / "archive", file)]
    there = {(r.topic, r.partition, r.offset): r.value for r in shop.records(ended) if r.topic in manifest["topics"]}
    assert {(r.topic, r.partition, r.offset): r.value for r in kept if r.key == ended.encode()} == there
    assert len(there) >= 3
    assert manifest["schemas_missing"] == []
    named = {int.from_bytes((r.value or b"")[1:5], "big") for r in kept if r.key == ended.encode()}
    assert named <= {one["id"] for one in manifest["schemas"]}  # other tests' records may name none there is
    assert f"{len(kept):,} records" in out

    middle = sorted(r.at for r in kept)[len(kept) // 2]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(shop, "events", "export", "--topic", "order.events", "--until", middle.isoformat(), str(first))[0] == 0
    assert run(shop, "events", "export", "--topic", "order.events", "--since", middle.isoformat(), str(second))[0] == 0
    parts = [[r for file in verify(made)["files"] for r in records(made, file)] for made in (first, second)]
    assert all(r.at < middle for r in parts[0])
    assert all(r.at >= middle for r in parts[1])
    whole = {(r.partition, r.offset) for r in kept if r.topic == "order.events"}
    assert whole <= {(r.partition, r.offset) for part in parts for r in part}
    assert run(shop, "events", "export", "--topic", "order.events", str(first))[0] == 3
    assert run(shop, "events", "export", "--topic", "nothing.events", str(tmp_path / "none"))[0] == 2
    assert not (tmp_path / "none").exists()
