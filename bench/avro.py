"""What Avro costs: our codec beside fastavro alone, and beside fastavro with the classes handlers need.

Run `python bench/avro.py`. In every round each column is measured in turn, so that their ratios bear a machine whose
speed varies. Our writer is fastavro with its own validation before it; our reader is `quadrille.avro.decoder`, and
fastavro's, which lacks its checks, is the peer, not a choice we have. "By reader schema" is fastavro reading only the
fields that the class names, by a schema derived from it, and the class made of them.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, get_args, get_type_hints

# this folder would make `import avro` find this very file
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import fastavro  # noqa: E402

from inventory import events as inventory  # noqa: E402
from order import events as order  # noqa: E402
from payment import events as payment  # noqa: E402
from quadrille.avro import schemas  # noqa: E402
from quadrille.avro.codec import HEAD, Codec  # noqa: E402
from quadrille.avro.registry import numbered  # noqa: E402
from quadrille.messages import Event  # noqa: E402

ROUNDS, CALLS = 25, 1_000
ORDER, DEADLINE_MS = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", 1_795_252_743_120
DEADLINE = datetime.fromtimestamp(DEADLINE_MS / 1000, UTC)
LINES = (order.Line("SKU-TEA", 2, 1250), order.Line("SKU-CUP", 1, 990), order.Line("SKU-HOT", 10, 100))
Body = dict[str, Any]


class Case(NamedTuple):
    """An event said, the class that hears it, and by hand the ways between them and fastavro's dicts."""

    fact: Event
    flat: Callable[[Any], Body]
    heard: type[Event]
    built: Callable[[Body], Event]


def flat_order(fact: order.OrderPlaced) -> Body:
    """Return what fastavro writes for an order."""
    lines = [{"sku": x.sku, "quantity": x.quantity, "unit_price_minor": x.unit_price_minor} for x in fact.lines]
    return {
        "order_id": fact.order_id,
        "customer_id": fact.customer_id,
        "lines": lines,
        "amount_minor": fact.amount_minor,
        "currency": fact.currency,
        "payment_token": fact.payment_token,
        "deadline_at": DEADLINE_MS,
    }


def flat_charge(fact: payment.PaymentCharged) -> Body:
    """Return what fastavro writes for a charge."""
    return {
        "order_id": fact.order_id,
        "payment_id": fact.payment_id,
        "provider_reference": fact.provider_reference,
        "amount_minor": fact.amount_minor,
        "currency": fact.currency,
    }


def built_order(body: Body) -> inventory.OrderPlaced:
    """Return inventory's projection of an order."""
    lines = tuple(inventory.Line(line["sku"], line["quantity"]) for line in body["lines"])
    return inventory.OrderPlaced(body["order_id"], lines)


CASES = (
    Case(
        order.OrderPlaced(ORDER, "cust_demo", LINES, 4490, "EUR", "tok_ok", DEADLINE),
        flat_order,
        inventory.OrderPlaced,
        built_order,
    ),
    Case(
        payment.PaymentCharged(ORDER, f"charge:{ORDER}", "ch_000042", 4490, "EUR"),
        flat_charge,
        order.PaymentCharged,
        lambda body: order.PaymentCharged(body["order_id"]),
    ),
    Case(
        inventory.StockCommitted(ORDER),
        lambda fact: {"order_id": fact.order_id},
        order.StockCommitted,
        lambda body: order.StockCommitted(body["order_id"]),
    ),
)


def narrowed(raw: Body, cls: type) -> Body:
    """Return a record's schema with the fields that a class names, alone: what a reader schema of it would be."""
    hints = get_type_hints(cls)
    kept = [dict(field) for field in raw["fields"] if field["name"] in hints]
    for field in kept:
        if isinstance(field["type"], dict) and field["type"]["type"] == "array":
            field["type"] = field["type"] | {
                "items": narrowed(field["type"]["items"], get_args(hints[field["name"]])[0])
            }
    return raw | {"fields": kept}


def columns(case: Case, codec: Codec, schema: schemas.Schema) -> dict[str, Callable[[], object]]:
    """Return the seven ways, each doing its whole work at every call."""
    parsed = fastavro.parse_schema(json.loads(schema.text))
    wanted = fastavro.parse_schema(narrowed(json.loads(schema.text), case.heard))
    body, value = case.flat(case.fact), codec.encode(case.fact)

    def write(flat: Body) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, flat)
        return out.getvalue()

    def read(by: Any = None) -> Body:  # noqa: ANN401 - as fastavro parsed it
        found: Body = fastavro.schemaless_reader(io.BytesIO(value[HEAD:]), parsed, by)  # type: ignore[assignment]  # a record
        return found

    assert write(body) == value[HEAD:]
    assert case.built(read()) == case.built(read(wanted)) == codec.decode(value, case.heard)
    return {
        "write: fastavro": lambda: write(body),
        "with classes": lambda: write(case.flat(case.fact)),
        "ours": lambda: codec.encode(case.fact),
        "read: fastavro": read,
        "with classes ": lambda: case.built(read()),
        "by reader schema": lambda: case.built(read(wanted)),
        "ours, strict": lambda: codec.decode(value, case.heard),
    }


def measured(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median microseconds of each way over interleaved rounds."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = perf_counter()
            for _ in range(CALLS):
                way()
            took[name].append((perf_counter() - start) / CALLS * 1e6)
    return {name: median(times) for name, times in took.items()}


def main() -> None:
    """Print microseconds and ratios for three events."""
    said = [one for service in ("order", "payment", "inventory") for one in schemas.emitted_by(service)]
    with tempfile.TemporaryDirectory() as folder:
        codec = Codec(said, numbered(Path(folder), said))
        for case in CASES:
            schema = next(one for one in said if one.name.endswith(f".{type(case.fact).__name__}"))
            us = measured(columns(case, codec, schema))
            print(
                f"{case.fact.type}: " + " · ".join(f"{name.strip()} {value:.1f}" for name, value in us.items()) + " us"
            )
            write, read = us["ours"] / us["with classes"], us["ours, strict"] / us["with classes "]
            projected = us["by reader schema"] / us["ours, strict"]
            alone = us["ours"] / us["write: fastavro"], us["ours, strict"] / us["read: fastavro"]
            print(f"  ours / fastavro with classes: write {write:.2f}, read {read:.2f}", end="; ")
            print(f"ours / fastavro alone: write {alone[0]:.2f}, read {alone[1]:.2f}", end="; ")
            print(f"by reader schema / ours: {projected:.2f}")


if __name__ == "__main__":
    main()
