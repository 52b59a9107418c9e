"""A console with keys: its pages are for those who are logged in, and what they press is done with their key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from console.domain import Shown
from order.domain import Orders
from quadrille import keys
from quadrille.settings import Secret
from quadrille.testing import OnPostgres
from tests.chassis.support.key_files import write
from tests.console.browser import Browser
from tests.console.conftest import Console, console_served
from tests.console.desk import Desk, form
from tests.console.shopfloor import Floor, order_floor
from tests.console.test_screens import AXE, RULES

KEPT = "SELECT coalesce(string_agg(s::text, ' '), '') || coalesce((SELECT string_agg(l::text, ' ') FROM login l), '') FROM session s"  # noqa: E501 - one question
CLIENTS = ("orders:read", "orders:write")


@dataclass(frozen=True, slots=True)
class Shopfront:
    """A console with keys beside order with keys: an operator's, a watcher's, a client's."""

    console: Console
    floor: Floor
    medic: Secret
    watcher: Secret
    client: Secret
    file: Path


@pytest.fixture
def keyed(order_db: OnPostgres[Orders], console: OnPostgres[Shown], tmp_path: Path) -> Iterator[Shopfront]:
    """A console with keys beside order with keys."""
    file = tmp_path / "keys.json"
    own, kept = keys.mint("console", ["ops:read"], None)
    wanted = {"medic": ("admin",), "watcher": ("ops:read",), "acme": CLIENTS}
    minted = [keys.mint(owner, scopes, None) for owner, scopes in wanted.items()]
    write(file, kept, *(one for _, one in minted))
    told: dict[str, Any] = {"auth": "keys", "keys_file": file, "rate_per_key": 100_000}
    with (
        order_floor(order_db, console, **told) as floor,
        console_served(console, floor.ops, {"order": floor.url}, ops_key=own, **told) as served,
    ):
        medic, watcher, client = (token for token, _ in minted)
        yield Shopfront(served, floor, medic, watcher, client, file)


def logged_in(keyed: Shopfront, key: str) -> Desk:
    """Log in with a key, as the page's form does."""
    desk = Desk(keyed.console, logged_in=False)
    page = desk.http.get("/")
    assert (page.status_code, form(page.text, "/login")) == (401, {"key": ""})
    answer = desk.http.post("/login", data={"key": key})
    assert answer.status_code == 303, answer.text
    return desk


def placed(keyed: Shopfront) -> str:
    """Return a client's new order."""
    shown = {"Authorization": f"Bearer {keyed.client}", "Idempotency-Key": str(uuid4())}
    line = {"sku": "SKU-TEA", "quantity": 1, "unit_price_minor": 1250}
    order = {"customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR", "lines": [line]}
    made = httpx.post(f"{keyed.floor.url}/v1/orders", json=order, headers=shown)
    assert made.status_code == 202, made.text
    return str(made.json()["order_id"])


def test_pages_are_for_those_who_are_logged_in(keyed: Shopfront) -> None:
    """Without a login every page is the login, no page tells anything, and the API wants a key with ops:read."""
    desk = Desk(keyed.console, logged_in=False)
    for path in ("/", "/orders", "/failures", "/audit", "/live", "/search?q=acme", "/ask/intake?verb=pause"):
        page = desk.http.get(path)
        assert (page.status_code, "Your API key" in page.text) == (401, True), path
    assert desk.http.post("/do/intake", data={"verb": "pause"}).status_code == 401
    assert desk.http.get("/static/app.js").status_code == 200
    for key, status in ((keyed.watcher, 200), (keyed.client, 403)):
        shown = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{keyed.console.address}/v1/flow", headers=shown).status_code == status
    for wrong in ("", "qk_live_x", str(keyed.client), keyed.watcher[:-1] + "x"):
        refused = desk.http.post("/login", data={"key": wrong})
        assert (refused.status_code, keyed.client in refused.text) == (403, False)


def test_what_is_pressed_is_done_with_the_key_of_who_presses(keyed: Shopfront) -> None:
    """Order's audit has the key's owner; a key without the scope is refused by order, and that is said."""
    order = placed(keyed)
    medic, watcher = logged_in(keyed, keyed.medic), logged_in(keyed, keyed.watcher)
    assert medic.act("intake", verb="pause").startswith("good:")
    assert "admin" in watcher.act("intake", verb="resume")
    assert medic.act("cancel", order=order).startswith("going:")
    audit = [(actor, action) for actor, action, _ in keyed.floor.audit()]
    assert audit == [("medic", "intake.pause"), ("medic", "cancel")]
    assert order[-4:] in watcher.http.get(f"/orders/{order}").text


def test_a_link_carries_the_key_it_was_asked_with(keyed: Shopfront) -> None:
    """`quadrille login --key` from anywhere: the session acts as the key's owner; a key without ops:read gets none."""

    def offered(key: str) -> httpx.Response:
        shown = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{keyed.console.ops}/ops/logins", json={"reason": "a test"}, headers=shown)

    assert offered(keyed.client).status_code == 403
    desk = Desk(keyed.console, logged_in=False)
    token = offered(keyed.medic).json()["url"].partition("?t=")[2]
    assert desk.http.post("/login", data={"t": token}).status_code == 303
    assert desk.act("intake", verb="resume")
    assert [actor for actor, _, _ in keyed.floor.audit()] == ["medic"]


def test_a_session_ends_with_its_key(keyed: Shopfront, console: OnPostgres[Shown]) -> None:
    """Revoked, the key's session shows nothing more; of the key the console's database has nothing that is one."""
    desk = logged_in(keyed, keyed.watcher)
    assert desk.http.get("/orders").status_code == 200
    with psycopg.connect(console.logins.owner) as tx:
        rows = str(tx.execute(KEPT).fetchone())
    secret = keyed.watcher.rpartition("_")[2]
    for told in (secret, secret.encode().hex(), desk.http.cookies[next(iter(desk.http.cookies))]):
        assert told not in rows

    past = datetime.now(UTC) - timedelta(seconds=1)
    kept = keys.read_keys(keyed.file)
    write(keyed.file, *(one.model_copy(update={"revoked": past}) if one.owner == "watcher" else one for one in kept))
    answers = iter(lambda: desk.http.get("/orders").status_code, None)
    assert next(status for status in answers if status != 200) == 401


@pytest.mark.parametrize("dark", [False, True])
def test_the_login_with_a_key_is_accessible(keyed: Shopfront, browser: Browser, *, dark: bool) -> None:
    """The form that takes a key has a label, axe finds nothing, in light and dark."""
    with browser.page(width=390, dark=dark) as page:
        page.goto(f"{keyed.console.address}/")
        page.run(AXE + ";true")
        assert page.run(RULES) == []
