"""What an outage of a participant costs: which orders end how, and how soon what they held is released.

On its own stack: ``python -m bench.outages wait`` (inventory is away for ``--away`` seconds while orders come at
``--rate``) or ``fail_fast`` (payment is: what is held for it is released; from each decision to its release is told).
Exit code 1 if by `wait` an order was not confirmed, or by `fail_fast` one still holds anything. Tests assert no time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal, TypeAlias

import httpx

from quadrille_cli.client import NoAnswerError, ProblemError
from quadrille_cli.stack import EVERYTHING, Stack
from tests.conftest import Shop, away, opened

Policy: TypeAlias = Literal["wait", "fail_fast"]
AWAY: dict[Policy, str] = {"wait": "inventory", "fail_fast": "payment"}
SETTINGS: dict[Policy, dict[str, str]] = {
    "wait": {},
    "fail_fast": {"OUTAGE_PAYMENT": "fail_fast", "INTAKE_FAILURE_MINIMUM": "1000000"},  # so that orders go on coming
}
ENDS = "SELECT status, reason, count(*) FROM orders WHERE order_id = ANY(%s) GROUP BY 1, 2"
OPEN = "SELECT count(*) FROM orders WHERE order_id = ANY(%s) AND status NOT IN ('CONFIRMED', 'CANCELLED')"
WAITED = """
SELECT max(extract(epoch FROM (history->-1->>'at')::timestamptz - placed_at))::float FROM orders
 WHERE order_id = ANY(%s)"""
DECIDED = """
SELECT order_id::text, (entry->>'at')::timestamptz FROM orders, jsonb_array_elements(history) entry
 WHERE order_id = ANY(%s) AND entry->>'status' = 'CANCELLING'"""
HELD = "SELECT order_id FROM hold WHERE order_id = ANY(%s) AND state = 'RESERVED'"
RELEASED = "SELECT aggregateid, occurred_at FROM outbox WHERE aggregateid = ANY(%s) AND type = 'stock.released'"


def placed(shop: Shop, rate: float, seconds: float) -> tuple[list[str], int]:
    """Place orders at a rate for so long; return their ids, and how many posts were refused or lost."""
    orders, refused, began = list[str](), 0, time.monotonic()
    for number in range(round(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        try:
            orders.append(shop.submit([("SKU-TEA", 1)]))
        except (ProblemError, NoAnswerError, httpx.HTTPError):
            refused += 1
    return orders, refused


def waited_out(shop: Shop, rate: float, seconds: float) -> bool:
    """Let inventory be away under load, tell how its orders ended; tell whether each was confirmed."""
    with away(shop.stack, "inventory-worker"):
        orders, refused = placed(shop, rate, seconds)
    back = time.monotonic()
    shop.until(lambda: shop.sql("order", OPEN, orders)[0][0] == 0 or None, "all have ended")
    ends = {f"{status} {reason or ''}".strip(): count for status, reason, count in shop.sql("order", ENDS, orders)}
    told = {
        "inventory away, seconds": seconds, "orders": len(orders), "refused": refused, "ends": ends,
        "seconds from its return to the last end": round(time.monotonic() - back, 1),
        "longest from placing to end, seconds": round(shop.sql("order", WAITED, orders)[0][0], 1),
    }  # fmt: skip
    print(json.dumps(told))
    return ends == {"CONFIRMED": len(orders)}


def failed_fast(shop: Shop, rate: float, seconds: float) -> bool:
    """Let payment be away under load, tell how long each release took after its decision; tell whether all is back."""
    with away(shop.stack, "payment-worker"):
        orders, refused = placed(shop, rate, seconds)
        shop.until(lambda: len(shop.sql("order", DECIDED, orders)) == len(orders) or None, "all are given up")
        shop.until(lambda: not shop.sql("inventory", HELD, orders) or None, "all is released")
        decided = dict(shop.sql("order", DECIDED, orders))
        released = dict(shop.sql("inventory", RELEASED, orders))
    took = sorted((released[order] - at).total_seconds() * 1000 for order, at in decided.items() if order in released)
    at_p50, at_p99 = (took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.99))
    told = {
        "payment away, seconds": seconds, "orders": len(orders), "refused": refused, "released": len(took),
        "decided to released, ms": {"p50": round(at_p50, 1), "p99": round(at_p99, 1), "max": round(took[-1], 1)},
    }  # fmt: skip
    print(json.dumps(told))
    ends = Counter(shop.ended(order)["reason"] for order in orders)
    return len(took) == len(orders) and ends == {"PARTICIPANT_AWAY": len(orders)}


def main() -> int:
    """Run one of the two, and end the stack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", choices=list(AWAY))
    parser.add_argument("--away", type=float, default=600.0, help="seconds")
    parser.add_argument("--rate", type=float, default=5.0, help="orders a second")
    given = parser.parse_args()
    run = waited_out if given.policy == "wait" else failed_fast
    home = Path(tempfile.mkdtemp(prefix="quadrille-bench-"))
    home.chmod(0o711)
    with Stack(home, parts=EVERYTHING, scattered=True, settings=SETTINGS[given.policy]) as stack:
        done = run(opened(stack), given.rate, given.away)
    stack.wipe()
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
