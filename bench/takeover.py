"""How long others take to stand in for a process that was killed or frozen, and how much a killed relay sends again.

On its own stack, with a second inventory worker or relay beside the first: ``python -m bench.takeover [--rounds 3]``.
A round places orders at the moment of the fault and counts until the last of them has ended; the tests assert no time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.stack.processes import Process
from quadrille_cli.stack.servers.registry import healthy
from tests.conftest import Shop, away, opened

ORDERS = 30  # some for every partition of twelve
HEARERS = {"order", "payment"}  # of inventory
DELIVERED = "SELECT count(*) FROM outbox WHERE aggregatetype = 'inventory.events' AND aggregateid NOT LIKE 'canary-%%'"


@contextmanager
def twin(stack: Stack, name: str) -> Iterator[Process]:
    """A second process of a role, with the next free ops port."""
    like = stack.process(name).spec
    port = max(stack.ports.values()) + 1
    env = {**like.env, "QUADRILLE_OPS_BIND": f"127.0.0.1:{port}"}
    log = like.log.with_suffix(".twin.log")
    other = Process(replace(like, env=env, log=log, ports={name: port}, ready=lambda: healthy(port, "/readyz")))
    try:
        other.start()
        yield other
    finally:
        other.stop()


def seconds_until_ended(shop: Shop, fault: Callable[[], object]) -> float:
    """Inject a fault among orders; return the seconds from then to the end of the last of them."""
    orders = [shop.submit([("SKU-TEA", 1)]) for _ in range(ORDERS // 3)]
    began = time.monotonic()
    fault()
    orders += [shop.submit([("SKU-TEA", 1)]) for _ in range(ORDERS - len(orders))]
    for order in orders:
        shop.ended(order)
    return time.monotonic() - began


def replaced(shop: Shop, name: str, rounds: int) -> Iterator[dict[str, object]]:
    """Kill, then freeze one of two, as often as asked."""
    first = shop.stack.process(name)
    took: dict[str, list[float]] = {"killed": [], "frozen": []}
    for _ in range(rounds):
        with twin(shop.stack, name):
            took["killed"].append(seconds_until_ended(shop, first.kill))
            first.start()
            took["frozen"].append(seconds_until_ended(shop, first.freeze))
            first.thaw()
    for how, seconds in took.items():
        yield {"fault": f"{name} {how}", "seconds until all had ended": [round(one, 2) for one in sorted(seconds)]}


def sent_again(shop: Shop) -> dict[str, object]:
    """Return how many of inventory's events came more than once, of all."""
    copies = Counter(r.header("ce_id") for r in shop.records() if r.topic == "inventory.events")
    again = sum(copies.values()) - len(copies)
    return {"facts": shop.sql("inventory", DELIVERED)[0][0], "sent again": again}


def silence(shop: Shop) -> dict[str, object]:
    """Return the seconds from inventory's death to the last hearer's announcement of its silence."""
    names = [f"inventory-{role}" for role in ("worker", "relay", "api")]

    def told() -> list[str]:
        return [str(body["service"]) for kind, body in shop.told("ops.events", *HEARERS) if kind == "service.silent"]

    before, began = len(told()), time.monotonic()
    with away(shop.stack, *names):
        shop.until(lambda: {*told()[before:]} >= HEARERS, "the silence is told")
        took = time.monotonic() - began
    return {"fault": "inventory away", "seconds until its silence was told": round(took, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    home = Path(tempfile.mkdtemp(prefix="quadrille-bench-"))
    home.chmod(0o711)
    with Stack(home, parts=EVERYTHING, scattered=True) as stack:
        shop = opened(stack)
        for name in ("inventory-worker", "inventory-relay"):
            for line in replaced(shop, name, rounds):
                print(json.dumps(line), flush=True)
        print(json.dumps(sent_again(shop)), flush=True)
        print(json.dumps(silence(shop)), flush=True)
        print(json.dumps({"seconds until all had stopped": round(stack.stop(), 2)}))
    stack.wipe()


if __name__ == "__main__":
    main()
