"""An order as it stood: the log folded to a moment, from topics or an archive, with what was not known yet."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quadrille_cli.as_of import as_of, told
from quadrille_cli.services import SERVICES
from tests.conftest import Shop
from tests.stack.test_events import run

MOMENT = timedelta(milliseconds=1)
Document = dict[str, Any]
AT = datetime.fromisoformat("2026-11-21T09:14:03.000+00:00")


def said(kind: str, second: int, sequence: int = 1, **body: object) -> Document:
    """A record as every interface shows it."""
    return {
        "event_id": f"{kind}-{second}", "type": kind, "time": (AT + timedelta(seconds=second)).isoformat(),
        "source": f"quadrille/{kind.partition('.')[0]}", "sequence": sequence, "trace_id": None, "body": body,
        "topic": "x.events", "partition": 0, "offset": second,
    }  # fmt: skip


PLACED = said("order.placed", 0, customer_id="cust", currency="EUR", amount_minor=1250,
              lines=[{"sku": "SKU-TEA", "quantity": 1, "unit_price_minor": 1250}])  # fmt: skip
ASKED, GONE = "order.cancellation_requested", "order.cancelled"
STORIES: dict[str, tuple[list[Document], list[str]]] = {
    "confirmed": ([PLACED, said("stock.reserved", 1), said("payment.charged", 2), said("order.confirmed", 3, 2)],
                  ["PENDING NONE NONE", "INVENTORY_RESERVED RESERVED NONE", "PAYMENT_CHARGED RESERVED CHARGED",
                   "CONFIRMED RESERVED CHARGED"]),
    "out of stock": ([PLACED, said("stock.rejected", 1, shortages=[]), said(ASKED, 2, 2, reason="OUT_OF_STOCK"),
                      said("payment.skipped", 3), said(GONE, 4, 3, reason="OUT_OF_STOCK")],
                     ["PENDING NONE NONE", "PENDING REJECTED NONE", "INVENTORY_FAILED REJECTED NONE",
                      "INVENTORY_FAILED REJECTED SKIPPED", "CANCELLED REJECTED SKIPPED"]),
    "declined": ([PLACED, said("stock.reserved", 1), said("payment.declined", 2, code="x"),
                  said(ASKED, 3, 2, reason="PAYMENT_DECLINED"), said("stock.released", 4, 2)],
                 ["PENDING NONE NONE", "INVENTORY_RESERVED RESERVED NONE", "INVENTORY_RESERVED RESERVED DECLINED",
                  "PAYMENT_FAILED RESERVED DECLINED", "INVENTORY_RELEASED RELEASED DECLINED"]),
    "not undone": ([PLACED, said(ASKED, 1, 2, reason="CUSTOMER"),
                    said("order.compensation_failed", 2, 3, participant="payment", error_class="x"),
                    said("order.compensation_resolved", 3, 4, participant="payment", how="EXTERNAL")],
                   ["PENDING NONE NONE", "CANCELLING NONE NONE", "COMPENSATION_FAILED NONE NONE",
                    "CANCELLING NONE NONE"]),
}  # fmt: skip


@pytest.mark.parametrize(("events", "stood"), STORIES.values(), ids=STORIES)
def test_every_moment_of_a_life(events: list[Document], stood: list[str]) -> None:
    """Before, at and after each event; in whatever order the records were read, and however often one lies there."""
    for n, wanted in enumerate(stood):
        at = datetime.fromisoformat(events[n]["time"])
        found = as_of([*reversed(events), events[0]], "o-1", at)
        assert f"{found['status']} {found['inventory']} {found['payment']}" == wanted
        assert [one["type"] for one in found["known"]] == [one["type"] for one in events[: n + 1]]
        assert [one["type"] for one in found["not_yet_known"]] == [one["type"] for one in events[n + 1 :]]
        assert as_of(events, "o-1", at + MOMENT)["status"] == found["status"]
        assert len(dict(told(found))) > 8
    before = as_of(events, "o-1", AT - MOMENT)
    assert (before["status"], before["known"]) == ("UNKNOWN", [])


def test_a_record_that_cannot_be_read_is_known_and_changes_nothing() -> None:
    """It is listed as undecodable, and the fold goes by what can be read."""
    broken = {**said("order.confirmed", 1, 2), "body": None, "undecodable": {"reason": "x"}}

    found = as_of([PLACED, broken], "o-1", AT + timedelta(seconds=2))

    assert (found["status"], found["known"][1]["undecodable"]) == ("PENDING", True)
    assert any("UNDECODABLE" in line for _, line in told(found))


def test_an_order_is_folded_to_a_moment(shop: Shop, tmp_path: Path) -> None:
    """At its end it stands as the API has it; between two events as of the first; from topics and archive the same."""
    bought, short = shop.submit([("SKU-TEA", 2)]), shop.submit([("SKU-NONE", 1)])
    ends = {order: shop.ended(order) for order in (bought, short)}
    shop.until(lambda: len(shop.records(bought)) >= 6 and len(shop.records(short)) >= 5, "their events are published")
    chosen = [part for name in SERVICES for part in ("--topic", f"{name}.events")]
    assert run(shop, "events", "export", *chosen, str(tmp_path / "archive"))[0] == 0

    for order, now in ends.items():
        code, out, err = run(shop, "orders", "get", order[-8:], "--as-of", "0s", "-o", "json")
        assert code == 0, err
        last = json.loads(out)
        for name in ("status", "final", "reason", "customer_id", "amount_minor", "currency", "inventory", "payment"):
            assert last[name] == now[name], name
        assert [line["sku"] for line in last["lines"]] == [line["sku"] for line in now["lines"]]
        assert (len(last["known"]), last["not_yet_known"]) == (len(shop.records(order)), [])
        for earlier, next_ in pairwise(last["known"]):
            if earlier["time"] < next_["time"]:
                words = ("orders", "get", order, "--as-of", earlier["time"], "-o", "json")
                code, out, err = run(shop, *words)
                then = json.loads(out)
                assert (code, then["known"][-1]["event_id"]) == (0, earlier["event_id"]), err
                assert then["not_yet_known"][0]["event_id"] == next_["event_id"]
                assert json.loads(run(shop, *words, "--archive", str(tmp_path / "archive"))[1]) == then
                break
    first = min(record.header("ce_time") for record in shop.records(bought))
    before = (datetime.fromisoformat(first) - MOMENT).isoformat()
    code, _, err = run(shop, "orders", "show", bought, "--as-of", before)
    assert (code, "the first, order.placed, was said at" in " ".join(err.split())) == (5, True), err
    assert run(shop, "orders", "show", bought, "--archive", str(tmp_path / "archive"))[0] == 2
    next((tmp_path / "archive").glob("*.events/*.avro")).write_bytes(b"")
    assert run(shop, "orders", "show", bought, "--as-of", "0s", "--archive", str(tmp_path / "archive"))[0] == 3
