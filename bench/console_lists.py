"""How long the console's lists take over 100,000 orders, in the database: ``python bench/console_lists.py URL``.

``URL`` is a console's database, as role ``app``; it is filled up to 100,000 orders of a thousand customers first.
"""

from __future__ import annotations

import sys
import time

import psycopg

from console.reads import OrderFilters, orders_sql

WANTED = 100_000
FILL = """
INSERT INTO order_view (order_id, status, final, reason, customer_id, amount_minor, currency, skus, placed_at, ended_at,
                        took_ms, waits_for, waits_what, waits_since, because, attention, trace_id, facts, parked,
                        changed_at)
SELECT lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '-7000-8000-' || lpad(to_hex(n), 12, '0'),
       CASE WHEN n %% 200 = 0 THEN 'PENDING' WHEN n %% 10 = 0 THEN 'CANCELLED' ELSE 'CONFIRMED' END, n %% 200 <> 0,
       CASE WHEN n %% 10 = 0 THEN 'OUT_OF_STOCK' END, 'cust_' || n %% 1000, n, 'EUR', ARRAY['SKU-' || n %% 500], at,
       CASE WHEN n %% 200 <> 0 THEN at + interval '300 ms' END, CASE WHEN n %% 200 <> 0 THEN 300 END,
       CASE WHEN n %% 200 = 0 THEN 'payment' END, CASE WHEN n %% 200 = 0 THEN 'payment.charged' END,
       CASE WHEN n %% 200 = 0 THEN at END, CASE WHEN n %% 200 = 0 THEN 'the card is to be charged' END,
       CASE WHEN n %% 5000 = 0 THEN 'STUCK' END, md5(n::text), '{}', '{}', at
  FROM (SELECT n, now() - n * interval '1 s' AS at FROM generate_series(1, %(wanted)s) n) made
ON CONFLICT DO NOTHING"""
LISTS = {
    "newest": OrderFilters(),
    "waiting for payment": OrderFilters(waits_for="payment"),
    "one customer's": OrderFilters(customer_id="cust_7"),
    "cancelled": OrderFilters(status="CANCELLED"),
    "out of stock": OrderFilters(reason="OUT_OF_STOCK"),
    "with a SKU": OrderFilters(sku="SKU-42"),
    "needs a person": OrderFilters(attention=True),
}


def fill(tx: psycopg.Connection) -> None:
    """Add orders up to the number wanted."""
    tx.execute(FILL, {"wanted": WANTED})
    tx.execute("ANALYZE order_view")


def main() -> None:
    """Print the milliseconds of every list: its first page, and one from the middle."""
    with psycopg.connect(sys.argv[1], autocommit=True) as tx:
        fill(tx)
        [(middle,)] = tx.execute("SELECT order_id FROM order_view ORDER BY order_id OFFSET 50000 LIMIT 1").fetchall()
        for name, filters in LISTS.items():
            for place, before in (("first page", None), ("from the middle", middle)):
                sql, values = orders_sql(filters, before)
                began = time.perf_counter()
                found = tx.execute(sql.encode(), values | {"limit": 51}).fetchall()
                print(f"{name:<22}{place:<18}{len(found):>4} rows {(time.perf_counter() - began) * 1000:8.1f} ms")


if __name__ == "__main__":
    main()
