"""`quadrille load` on the real stack: every order of a mix ends where it belongs, and what undoing took is told."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quadrille_cli.loadtest import compensation

if TYPE_CHECKING:
    from tests.conftest import Shop

MIX = "ok=85,declined=5,cancel=5,out_of_stock=5"
LINE = re.compile(r"^failure to (.+?) {2,}p50 ([\d.,]+)  p99 ([\d.,]+)  p99.9 [\d.,]+ ms   n (\d+)$", re.MULTILINE)


def test_every_order_of_the_mix_ends_where_it_belongs(shop: Shop) -> None:
    """85 good, 5 declined, 5 cancelled, 5 out of stock in a hundred: exit code 0, and undoing is timed of each kind."""
    options = f"--orders 120 --rate 40 --mix {MIX} --seed 7 --force --data {shop.stack.data}"
    command = [sys.executable, "-m", "quadrille_cli", "load", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120 accepted of 120" in done.stdout
    found = {what: (float(p50.replace(",", "")), int(n)) for what, p50, _, n in LINE.findall(done.stdout)}
    kinds = [f"all undone, {kind}" for kind in ("declined", "cancel", "out_of_stock")]
    assert set(found) == {"all undone", *kinds, "order.cancelled"}
    assert found["all undone"][1] == found["order.cancelled"][1] == sum(found[kind][1] for kind in kinds)
    assert all(0 < p50 <= found["order.cancelled"][0] * 100 for p50, _ in found.values())


def test_undoing_counts_from_the_fact_that_failed_the_order(shop: Shop) -> None:
    """Commit to commit: longer than nothing, shorter than the client's wait; an order that goes well is not counted."""
    since, began = datetime.now(UTC), time.monotonic()
    declined, good = shop.submit([("SKU-TEA", 1)], "tok_declined_funds"), shop.submit([("SKU-TEA", 1)])
    for order in (declined, good):
        shop.ended(order)
    waited = time.monotonic() - began
    found = compensation.measure(shop.stack, {declined, good}, since)
    assert found is not None
    assert [one.order_id for one in found] == [declined]
    assert 0 < found[0].undone <= found[0].cancelled < waited
