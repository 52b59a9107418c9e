"""Lists over 100,000 orders: every page is found by an index and reads little more than it shows."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from console import store
from console.domain import Shown
from console.handlers import on
from console.reads import OrderFilters, orders_sql
from quadrille.testing import Logins, OnPostgres

PAGE = 51
READ_MAX = 12 * PAGE  # rows looked at for a page of the rarest filter; all would be 100,000
BENCH = Path(__file__).parents[2] / "bench" / "console_lists.py"


def bench() -> ModuleType:
    """The bench, whose orders and lists these are."""
    spec = importlib.util.spec_from_file_location("console_lists", BENCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LISTS: dict[str, OrderFilters] = bench().LISTS


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's nodes, all of them."""
    return [plan, *(node for below in plan.get("Plans", []) for node in nodes(below))]


@pytest.fixture(scope="module")
def full(logins: Logins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPostgres[Shown]]:
    there = OnPostgres(on, store, logins, tmp_path_factory.mktemp("schemas"))
    there.tx.execute("DELETE FROM order_view")
    bench().fill(there.tx)
    yield there
    there.tx.execute("DELETE FROM order_view")
    there.close()


@pytest.mark.parametrize("place", ["first page", "middle"])
@pytest.mark.parametrize("name", LISTS)
def test_a_page_reads_little_more_than_it_shows(full: OnPostgres[Shown], name: str, place: str) -> None:
    """No list scans the table or sorts it; the rows looked at are a page's, or few times that."""
    [(middle,)] = full.tx.execute("SELECT order_id FROM order_view ORDER BY order_id OFFSET 50000 LIMIT 1").fetchall()
    sql, values = orders_sql(LISTS[name], middle if place == "middle" else None)
    [(told,)] = full.tx.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}".encode(), values | {"limit": PAGE}).fetchall()
    plan = told[0]["Plan"] if isinstance(told, list) else json.loads(told)[0]["Plan"]

    found = nodes(plan)
    assert "Seq Scan" not in {node["Node Type"] for node in found}
    read = max((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in found)
    assert read <= READ_MAX, [(node["Node Type"], node["Actual Rows"]) for node in found]
