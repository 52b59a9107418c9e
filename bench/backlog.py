"""What an order costs each worker behind a backlog, and how fast one drains it: a worker is frozen, then thawed.

On its own stack: ``python -m bench.backlog [--orders 2000]``. Everybody else has finished when the worker is thawed, so
that what is measured is one worker's own, with full batches; what follows of it (answers, others' events) is in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quadrille_cli.services import SERVICES
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.stack.usage import cpu_seconds
from tests.conftest import Shop, opened

AT_ONCE = 16
# What a service has done with an order once its worker has caught up.
DONE = {
    "order": "SELECT count(*) FROM orders WHERE status = 'CONFIRMED' AND states->>'inventory' = 'COMMITTED'",
    "inventory": "SELECT count(*) FROM hold WHERE state = 'COMMITTED'",
    "payment": "SELECT count(*) FROM payment WHERE state = 'CHARGED'",
    "notification": "SELECT count(*) FROM notice WHERE state = 'SENT'",
}


def settled(shop: Shop, orders: int, services: tuple[str, ...]) -> bool:
    """Tell whether these services have done with so many orders."""
    return all(shop.sql(service, DONE[service])[0][0] >= orders for service in services)


def drained(shop: Shop, service: str, orders: int, before: int) -> dict[str, object]:
    """Place orders while a service's worker is frozen; return what it does once thawed."""
    process = shop.stack.process(f"{service}-worker")
    process.freeze()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: shop.submit([("SKU-TEA", 1)]), range(orders)))
    time.sleep(2.0)  # the others go as far as they can without it
    began, spent = time.monotonic(), cpu_seconds(process.pid)
    process.thaw()
    while not settled(shop, before + orders, (service,)):
        time.sleep(0.05)
    took, spent = time.monotonic() - began, cpu_seconds(process.pid) - spent
    while not settled(shop, before + orders, tuple(DONE)):
        time.sleep(0.05)
    return {
        "worker": service, "orders": orders, "orders a second": round(orders / took),
        "CPU ms an order": round(1000 * spent / orders, 3), "orders a second a core": round(orders / spent),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=2_000)
    orders = parser.parse_args().orders
    home = Path(tempfile.mkdtemp(prefix="quadrille-bench-"))
    home.chmod(0o711)
    with Stack(home, parts=EVERYTHING, scattered=True) as stack:
        shop, before = opened(stack), 0
        for service in (SERVICES[0], *SERVICES):  # the first warms everything
            line = drained(shop, service, orders, before)
            before += orders
            if before > orders:
                print(json.dumps(line), flush=True)
    stack.wipe()


if __name__ == "__main__":
    main()
