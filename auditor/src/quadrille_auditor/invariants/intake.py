"""What clients may rely on: what was accepted exists, once per key, and is never seen to go backwards."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

from quadrille_auditor.evidence import Evidence, Key
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

PLACED = "orders"
RANKS = {
    "PENDING": 0, "INVENTORY_RESERVED": 1, "PAYMENT_CHARGED": 2, "CONFIRMED": 3, "INVENTORY_FAILED": 4,
    "PAYMENT_FAILED": 4, "CANCELLING": 4, "INVENTORY_RELEASED": 5, "COMPENSATION_FAILED": 6, "CANCELLED": 7,
}  # fmt: skip
NO_LOG = "no clients' log was given: judged by what is stored alone"


@invariant(
    1, "accepted-exists",
    "Every order a client saw accepted exists; a request with an unknown outcome exists at most once.",
    reads="clients' log, order's orders and idempotency keys",
)  # fmt: skip
def accepted_exists(e: Evidence) -> Verdict:
    """Hold what was answered, and what is kept as an answer, against the orders there are."""
    accepted = [one for one in e.clients or () if one.outcome == "accepted"]
    unknown = {one.key for one in e.clients or () if one.outcome == "unknown"}
    placed = _placing(e)
    findings = [
        Finding(1, one.order, "an order that a client saw accepted is not there", "an order", "none", (one.key,))
        for one in accepted
        if one.order not in e.orders
    ]
    findings += [
        Finding(1, key.subject, "the answer kept under a key is of an order that is not there", "an order", "none",
                (key.key,))
        for key in placed
        if key.subject not in e.orders
    ]  # fmt: skip
    by_key: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for key in placed:
        by_key[key.caller, key.key].add(key.subject)
    for (_, text), orders in by_key.items():
        if text in unknown and len(orders) > 1:
            says = "a request with an unknown outcome was done more than once"
            findings.append(Finding(1, "", says, "1 order at most", f"{len(orders)}", (text, *sorted(orders))))
    return judged(len(accepted) + len(unknown) + len(placed), findings, "" if e.clients is not None else NO_LOG)


@invariant(
    2, "one-order-per-key", "One order per (caller, idempotency key), identical answers.",
    reads="clients' log, order's orders and idempotency keys",
)  # fmt: skip
def one_order_per_key(e: Evidence) -> Verdict:
    """Hold orders against the keys they were placed under: each order has one, and each answer names its order."""
    placed = _placing(e)
    findings = [*_keyless(e, placed), *_answers(placed), *_seen_answers(e)]
    return judged(len(placed), findings, "" if e.clients is not None else NO_LOG)


def _placing(e: Evidence) -> list[Key]:
    """Return the keys under which orders were placed, not those of what was done to one later."""
    return [key for key in e.keys if key.route.strip("/").rpartition("/")[2] == PLACED]


def _keyless(e: Evidence, placed: list[Key]) -> Iterator[Finding]:
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for key in placed:
        keys[key.subject].append(key.key)
    kept_since = min((key.at for key in placed), default=e.at)  # whose time was over is gone
    for order in e.orders.values():
        many = len(keys[order.id])
        if many > 1 or (many == 0 and order.placed_at > kept_since):
            found = f"{many} keys"
            yield Finding(2, order.id, "an order was not placed under one key", "1 key", found, tuple(keys[order.id]))


def _answers(placed: list[Key]) -> Iterator[Finding]:
    for key in placed:
        try:
            named = json.loads(key.answer).get("order_id")
        except (ValueError, AttributeError):
            named = None
        if named != key.subject:
            says = "the answer kept under a key names another order"
            yield Finding(2, key.subject, says, key.subject, str(named), (key.key,))


def _seen_answers(e: Evidence) -> Iterator[Finding]:
    seen: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for one in e.clients or ():
        if one.outcome == "accepted" and one.key:
            seen[one.client, one.key].add(one.order)
    for (client, key), orders in seen.items():
        if len(orders) > 1:
            says = "one key was answered with several orders"
            yield Finding(2, "", says, "1 order", f"{len(orders)} orders", (client, key, *sorted(orders)))


@invariant(
    16, "status-forward", "A status seen by one client never goes backwards.",
    reads="clients' log, order's history",
)  # fmt: skip
def status_forward(e: Evidence) -> Verdict:
    """Hold each order's history, and what each client saw in turn, against the order of statuses."""
    findings = []
    for order in e.orders.values():
        ranks = [RANKS.get(status, -1) for _, status, _ in order.history]
        if ranks != sorted(ranks) or -1 in ranks:
            statuses = " → ".join(status for _, status, _ in order.history)
            findings.append(Finding(16, order.id, "an order's history goes backwards", "only forwards", statuses))
    last: dict[tuple[str, str], tuple[int, int, str]] = {}
    for one in e.clients or ():
        if one.outcome != "seen":
            continue
        rank, version, status = last.get((one.client, one.order), (-1, 0, ""))
        mine = RANKS.get(one.status, -1)
        if mine < rank or (one.version and one.version < version):
            says = "a client saw an order go backwards"
            findings.append(Finding(16, one.order, says, f"{status} or later", one.status, (one.client,)))
        last[one.client, one.order] = max(mine, rank), max(one.version, version), one.status
    return judged(len(e.orders) + len(last), findings, "" if e.clients is not None else NO_LOG)
