"""An archive of the whole shop read again by its services, over the command: as its topics are, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quadrille.replay.archive import Archive
from quadrille_cli.services import SERVICES
from tests.conftest import Shop
from tests.replay.operator_desk import Operator, forget, totals


@pytest.fixture
def operator(shop: Shop) -> Operator:
    """An operator at the session's stack."""
    return Operator(shop)


def exported(operator: Operator, directory: Path) -> Path:
    """An archive of every service's events."""
    topics = [part for service in SERVICES for part in ("--topic", f"{service}.events")]
    code, _, err = operator.quadrille("events", "export", *topics, str(directory))
    assert code == 0, err
    return directory


def test_services_judge_an_archive_as_they_judge_its_topics(shop: Shop, operator: Operator, tmp_path: Path) -> None:
    """A dry run of either has the same verdicts, by type; what is not what was written is refused, exit code 3."""
    shop.ended(shop.submit([("SKU-TEA", 1)]))
    shop.until(shop.all_read, "all is read")
    archive = exported(operator, tmp_path / "archive")
    ends = {int(place[1]): bounds[1] for place, bounds in
            Archive(archive).watermarks(Archive(archive).places("order.events")).items()}  # fmt: skip

    asked = ("replay", "--topic", "order.events", "--from", "beginning", "--service", "inventory", "-o", "json")
    code, out, err = operator.quadrille(*asked, "--archive", str(archive))
    planned = json.loads(out)
    assert code == 0, err
    assert planned["plan"]["archive"] == str(archive)
    for partition, (_, upto) in planned["plan"]["ranges"].items():
        assert upto <= ends[int(partition)]
        edges = {"partition": int(partition), "from": "beginning", "to": f"offset:{upto}"}
        topic = operator.dry("inventory", "order.events", **edges)
        one = operator.dry("inventory", "order.events", archive=str(archive), **edges)
        assert one["progress"]["verdicts"] == topic["progress"]["verdicts"]
        assert one["progress"].get("records", 0) == topic["progress"].get("records", 0)

    next(archive.glob("order.events/*.avro")).write_bytes(b"")
    code, _, err = operator.quadrille(*asked, "--archive", str(archive))
    assert (code, "is not what was written" in err) == (3, True), err


def test_the_fence_keeps_a_charge_back_from_an_archive_too(shop: Shop, operator: Operator, tmp_path: Path) -> None:
    """After a restore payment reads an archive: the money is not taken twice, and not asked for unless that is said."""
    shop.ended(order := shop.submit([("SKU-TEA", 1)]))
    shop.until(shop.all_read, "all is read")
    captured = shop.captures(order)
    archive = exported(operator, tmp_path / "archive")
    forget(shop, order)

    chosen = {"order": order, "archive": str(archive)}
    placed = operator.live(operator.dry("payment", "order.events", **chosen))
    planned = operator.dry("payment", "inventory.events", **chosen)
    withheld = operator.live(planned)
    state = shop.sql("payment", "SELECT state FROM payment WHERE order_id = %s", order)
    opened = operator.live(planned, allow_effects=["charge"])
    charged = "SELECT state FROM payment WHERE order_id = %s AND state = 'CHARGED'"
    shop.until(lambda: shop.sql("payment", charged, order), "the charge is known again")

    assert (totals(placed)["NEW"], totals(planned)["FENCED"], totals(withheld)["FENCED"]) == (1, 1, 1)
    assert state == [("NONE",)]
    assert totals(opened)["NEW"] == 1
    assert shop.captures(order) == captured
