"""Orders belong to their caller: two keys of an owner share them, another owner's key finds nothing, and is told so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from order import api, store
from order.domain import Orders
from order.handlers import on
from quadrille import keys
from quadrille.testing import Logins, OnPostgres, fuzz_api, serving
from quadrille_cli.client import Client, Reply
from quadrille_cli.testing import Start

OF_CLIENTS = (
    "orders:read", "orders:write", "orders:cancel", "events:read", "webhooks:read", "webhooks:write",
)  # fmt: skip
ORDER = {
    "customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR",
    "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody with a key."""

    url: str
    key: str

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask with the key."""
        with Client(self.url, timeout=60) as line:
            return line.ask(method, path, body, {"Authorization": f"Bearer {self.key}", **(headers or {})})

    def place(self, key: str = "basket-1", **more: object) -> dict[str, Any]:
        """Place an order."""
        placed = self.ask("POST", "/v1/orders", ORDER | more, {"Idempotency-Key": key})
        assert placed.status == 202, placed
        document: dict[str, Any] = placed.body
        return document


@pytest.fixture(scope="module")
def database(parts_of_the_stack: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPostgres[Orders]]:
    """Order over its database."""
    stack = parts_of_the_stack("postgres:order")
    logins = Logins(stack.database_url("order", "owner"), stack.database_url("order", "app"))
    db = OnPostgres(on, store, logins, tmp_path_factory.mktemp("schemas"))
    yield db
    db.close()


@pytest.fixture
def owners(database: OnPostgres[Orders], tmp_path: Path) -> Iterator[tuple[Owner, Owner, Owner, Owner]]:
    """Acme with two keys, another owner with one, and an admin."""
    minted = [
        *(keys.mint(owner, OF_CLIENTS, None) for owner in ("acme", "acme", "other")),
        keys.mint("root", ["admin"], None),
    ]  # fmt: skip
    file = tmp_path / "keys.json"
    file.write_text(keys.document_of([kept for _, kept in minted]))
    with psycopg.connect(database.logins.owner) as tx:
        tx.execute("TRUNCATE orders, order_change, order_change_gone, webhook, idempotency_key")
    told: dict[str, Any] = {"auth": "keys", "keys_file": file, "rate_per_key": 100_000, "webhook_loopback": True}
    with serving(api.make, database.service, database.connect, **told) as url:
        first, second, other, root = (Owner(url, token) for token, _ in minted)
        yield first, second, other, root


def test_two_keys_of_an_owner_are_one_caller(owners: tuple[Owner, Owner, Owner, Owner]) -> None:
    """What one key has placed the other reads, lists, follows, cancels; an Idempotency-Key is the same for both."""
    first, second, _, _ = owners
    order = first.place()["order_id"]
    repeated = second.ask("POST", "/v1/orders", ORDER, {"Idempotency-Key": "basket-1"})
    assert (repeated.body["order_id"], repeated.headers["idempotent-replayed"]) == (order, "true")
    assert second.ask("GET", f"/v1/orders/{order}").body["order_id"] == order
    assert [one["order_id"] for one in second.ask("GET", "/v1/orders").body["orders"]] == [order]
    assert [one["order_id"] for one in second.ask("GET", "/v1/events").body["events"]] == [order]
    assert second.ask("POST", f"/v1/orders/{order}/cancel").status == 202


def test_a_foreign_order_is_no_order(owners: tuple[Owner, Owner, Owner, Owner]) -> None:
    """Every route answers 404 for another's order, as for one there is not; lists are empty; admin changes nothing."""
    first, _, other, root = owners
    order = first.place(reference="same")["order_id"]
    hook = first.ask("POST", "/v1/webhooks", {"url": "http://127.0.0.1:9/hook"}).body["webhook_id"]
    for stranger in (other, root):
        for method, path in (
            ("GET", f"/v1/orders/{order}"), ("GET", f"/v1/orders/{order}/stream"),
            ("POST", f"/v1/orders/{order}/cancel"),
            *((m, f"/v1/webhooks/{hook}{tail}") for m, tail in (
                ("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/test"))),
        ):  # fmt: skip
            answer = stranger.ask(method, path)
            assert (answer.status, answer.body["code"]) == (404, "not-found"), (method, path)
        assert stranger.ask("GET", "/v1/orders").body["orders"] == []
        assert stranger.ask("GET", "/v1/orders?reference=same").body["orders"] == []
        assert stranger.ask("GET", "/v1/events").body["events"] == []
        assert stranger.ask("GET", "/v1/webhooks").body["webhooks"] == []
    assert first.ask("GET", f"/v1/orders/{order}").body["reason"] is None


def test_names_of_one_owner_are_not_anothers(owners: tuple[Owner, Owner, Owner, Owner]) -> None:
    """The same Idempotency-Key and the same reference of another owner are another order."""
    first, _, other, _ = owners
    assert first.place(reference="same")["order_id"] != other.place(reference="same")["order_id"]
    page = first.ask("GET", "/v1/events").body["next"]
    assert other.ask("GET", f"/v1/events?after={page}").body["code"] == "invalid-cursor"


def test_an_operator_sees_any_order(owners: tuple[Owner, Owner, Owner, Owner], database: OnPostgres[Orders]) -> None:
    """What the API keeps to its owner the ops port tells operators, with whose it is."""
    from order.main import PROGRAM  # noqa: PLC0415 - wires the whole service
    from order.settings import OrderSettings  # noqa: PLC0415 - as above
    from quadrille.app import ProcessContext  # noqa: PLC0415 - as above
    from quadrille.testing import Spans, ops_serving  # noqa: PLC0415 - as above

    order = owners[0].place()
    nowhere = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
    context = ProcessContext(
        OrderSettings.model_validate(nowhere), database.service, database.connect, Spans.disabled()
    )
    with ops_serving(PROGRAM, context) as port, Client(f"http://127.0.0.1:{port}") as ops:
        told = ops.ask("GET", f"/ops/orders/{order['order_id']}").body
        assert (told["caller"], told["etag"], told["lines"]) == ("acme", '"v1"', order["lines"])
        assert ops.ask("GET", "/ops/orders/01a1fd62-57f0-7eeb-be96-e59ce40f9cb1").status == 404


def test_nothing_undocumented_with_keys(database: OnPostgres[Orders], tmp_path: Path) -> None:
    """With a key, without one, with a wrong one: schemathesis gets no answer that is not described, nor is let in."""
    token, kept = keys.mint("acme", OF_CLIENTS, None)
    file = tmp_path / "keys.json"
    file.write_text(keys.document_of([kept]))
    told: dict[str, Any] = {"auth": "keys", "keys_file": file, "rate_per_key": 1_000_000}
    with serving(api.make, database.service, database.connect, **told) as url:
        unforeseen = "reference-taken", "idempotency-key-missing", "webhook-url-refused", "webhook-limit"
        fuzz_api(url, 12, tmp_path, unforeseen, key=token)
