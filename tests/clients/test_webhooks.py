"""Webhooks: an order's ends reach each endpoint at least once, in order, signed; a bad one holds up nobody but itself.

Endpoints are real HTTP servers of this process, which stands for the world outside.
"""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from order.domain import OVERLAP
from order.events import AddWebhook, PaymentRefunded, PaymentSkipped, StockRejected, StockReleased
from order.webhooks import MOST
from quadrille.ids import uuid7
from quadrille.processing.batch import process_batch
from tests.chassis.support.database import wait_until as eventually
from tests.clients.conftest import Endpoint, Shop, an_endpoint, verified, worker

PUSHES = "SELECT count(*) FROM task WHERE type = 'push_webhook'"


def pushes(shop: Shop) -> int:
    return int(shop.db.tx.execute(PUSHES).fetchall()[0][0])


def looked(shop: Shop) -> list[tuple[object, ...]]:
    """Return what is different after each look for something to be told."""
    return shop.db.tx.execute("SELECT id, due FROM task WHERE type = 'push_webhook'").fetchall()


def await_looks(shop: Shop, times: int) -> None:
    """Wait until a worker has looked that often for something to be told."""
    for _ in range(times):
        before = looked(shop)
        eventually(lambda: looked(shop) != before, "the worker looks again")  # noqa: B023 - called at once


def owner(shop: Shop, sql: str, *values: object) -> None:
    with psycopg.connect(shop.db.logins.owner, autocommit=True) as tx:
        tx.execute(sql.encode(), values)


def test_an_orders_end_is_told_signed(shop: Shop, endpoint: Endpoint) -> None:
    """One POST for each end, of the documented shape, which whoever has the secret can verify."""
    webhook_id, secret = shop.add(endpoint.url)
    with worker(shop):
        (order,) = shop.confirm("a")
        eventually(lambda: endpoint.got, "the end is told")
        eventually(lambda: shop.look(webhook_id)["delivered_at"], "that it was taken is seen")

    ((headers, body),) = endpoint.got
    document = json.loads(body)
    read = shop.ask("GET", f"/v1/orders/{order}").body
    assert document["type"] == "order.confirmed"
    assert document["data"] == {
        "order_id": order, "reference": None, "sequence": 4, "status": "CONFIRMED", "phase": "SUCCEEDED",
        "final": True, "reason": None, "amount_minor": 2500, "currency": "EUR", "because": "payment.charged",
    }  # fmt: skip
    assert document["timestamp"] == read["history"][-1]["at"]
    assert headers["webhook-id"] == f"evt_{order}_4"
    assert abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 3600
    assert verified(secret, headers, body)
    assert not verified(secret, headers, body + b" ")
    assert not verified(shop.add(endpoint.url)[1], headers, body)
    assert secret.encode() not in json.dumps(shop.look(webhook_id)).encode()


def test_nothing_is_due_where_nobody_listens(shop: Shop, endpoint: Endpoint) -> None:
    """No endpoint, no task; with one there is one task, however many orders end while it is not told."""
    shop.confirm("a", "b")
    assert pushes(shop) == 0
    shop.add(endpoint.url)
    shop.confirm("c", "d", "e")
    assert pushes(shop) == 1


def test_an_endpoint_is_told_from_its_beginning_on(shop: Shop, endpoint: Endpoint) -> None:
    """What ended before it was added is not told; what ends while no worker runs is, and only of the types it wants."""
    shop.confirm("before")
    shop.add(endpoint.url, "order.cancelled")
    shop.confirm("not-wanted")
    order = shop.place("k")
    shop.db.given(StockRejected(order, ()), PaymentSkipped(order))
    with worker(shop):
        eventually(lambda: endpoint.got, "the end is told")

    assert endpoint.told() == [(order, "order.cancelled")]
    assert json.loads(endpoint.got[0][1])["data"]["reason"] == "OUT_OF_STOCK"


def undo(shop: Shop, order: str) -> None:
    shop.db.given(StockReleased(order), PaymentRefunded(order, "VOID", 2500))


def test_what_fails_is_tried_again_and_seen(shop: Shop, endpoint: Endpoint) -> None:
    """500, then 200: it comes again under the same id; meanwhile the last failure and the next try are told."""
    webhook_id, secret = shop.add(endpoint.url)
    endpoint.answers = [500]
    with worker(shop):
        (order,) = shop.confirm("a")
        eventually(lambda: shop.look(webhook_id)["last_failure"], "the failure is seen")
        seen = shop.look(webhook_id)
        eventually(lambda: len(endpoint.got) == 2, "it is tried again")
        eventually(lambda: shop.look(webhook_id)["last_failure"] is None, "it is mended")

    assert seen["last_failure"]["phrase"] == "it answered 500"
    assert seen["last_failure"]["address"] == f"127.0.0.1:{endpoint.port}"
    assert (seen["attempts"], seen["state"]) == (1, "ENABLED")
    assert seen["next_try_at"]
    (first, body), (second, again) = endpoint.got
    assert (first["webhook-id"], body) == (second["webhook-id"], again)
    assert verified(secret, second, again)
    assert endpoint.told() == [(order, "order.confirmed")] * 2
    assert shop.look(webhook_id)["attempts"] == 0


def test_ends_of_an_order_come_in_their_order(shop: Shop, endpoint: Endpoint) -> None:
    """Confirmed, which is refused at first, and cancelled since: never the second before the first was taken."""
    shop.add(endpoint.url)
    endpoint.answers = [503]
    (order,) = shop.confirm("a")
    shop.ask("POST", f"/v1/orders/{order}/cancel")
    undo(shop, order)
    with worker(shop):
        eventually(lambda: len(endpoint.got) == 3, "all is told")

    assert endpoint.told() == [(order, "order.confirmed"), (order, "order.confirmed"), (order, "order.cancelled")]
    assert [json.loads(body)["data"]["reason"] for _, body in endpoint.got] == [None, None, "CUSTOMER"]


def test_who_commits_late_is_told_too(shop: Shop, endpoint: Endpoint) -> None:
    """An end whose transaction began first and committed last is told, though another was there before it."""
    shop.add(endpoint.url)
    late, soon = shop.place("a"), shop.place("b")
    with worker(shop), shop.db.connect() as tx:
        with tx.transaction():
            process_batch(tx, shop.db.service, shop.db.inputs([StockRejected(late, ())]))
            process_batch(tx, shop.db.service, shop.db.inputs([PaymentSkipped(late)]))
            shop.db.given(StockRejected(soon, ()), PaymentSkipped(soon))
            await_looks(shop, 3)  # by then it was seen, and told if it were to be told
        eventually(lambda: len(endpoint.got) == 2, "both are told")

    assert endpoint.told() == [(late, "order.cancelled"), (soon, "order.cancelled")]


def test_one_that_hangs_holds_up_nobody(shop: Shop, endpoint: Endpoint) -> None:
    """An endpoint that never answers costs its own call; another one is told meanwhile, and this one in the end."""
    with an_endpoint() as hanging:
        hanging.door.clear()
        slow, _ = shop.add(hanging.url)
        shop.add(endpoint.url)
        with worker(shop, seconds=0.3):
            orders = shop.confirm("a", "b", "c")
            eventually(lambda: len(endpoint.got) == 3, "the other is told")
            eventually(lambda: shop.look(slow)["last_failure"], "that it hangs is seen")
            hanging.door.set()
            eventually(lambda: shop.look(slow)["delivered_at"], "it is told")
            eventually(lambda: {order for order, _ in hanging.told()} == set(orders), "of all of them")

    assert [order for order, _ in endpoint.told()] == orders


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(shop: Shop, endpoint: Endpoint, status: int) -> None:
    """A redirect, to a cloud's own address or to another port here, is a failure and nothing else is called."""
    with an_endpoint() as elsewhere:
        endpoint.answers, endpoint.location = [status], elsewhere.url
        webhook_id, _ = shop.add(endpoint.url)
        with worker(shop):
            shop.confirm("a")
            eventually(lambda: len(endpoint.got) == 2, "it is tried again where it was added")
            eventually(lambda: shop.look(webhook_id)["delivered_at"], "and taken")
        assert elsewhere.got == []


def test_a_name_that_leads_inside_later_is_not_called(
    shop: Shop, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name judged when it was added is judged at each delivery, where it is called at the address judged."""
    leads = ["127.0.0.1"]
    real = socket.getaddrinfo

    def resolving(host: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401 - as the library has it
        return real(leads[0] if host == "localhost" else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    webhook_id, _ = shop.add(f"http://localhost:{endpoint.port}/hook")
    leads[0] = "10.255.255.1"
    with worker(shop):
        shop.confirm("a")
        eventually(lambda: shop.look(webhook_id)["last_failure"], "it is refused")
        assert shop.look(webhook_id)["last_failure"]["phrase"] == "its address is not a public one"
        assert endpoint.got == []
        leads[0] = "127.0.0.1"
        eventually(lambda: endpoint.got, "it is told")


def test_without_the_setting_loopback_is_not_called(shop: Shop, endpoint: Endpoint) -> None:
    """Where it is not allowed an endpoint on this machine is told nothing, although it was added before."""
    webhook_id, _ = shop.add(endpoint.url)
    with worker(shop, loopback=False):
        shop.confirm("a")
        eventually(lambda: shop.look(webhook_id)["last_failure"], "it is refused")
    assert endpoint.got == []


def test_two_workers_tell_each_end_once(shop: Shop, endpoint: Endpoint) -> None:
    """While nothing fails, two workers at once tell each end once, in the feed's order."""
    shop.add(endpoint.url)
    with worker(shop), worker(shop):
        orders = [order for n in range(8) for order in shop.confirm(f"a{n}", f"b{n}")]
        eventually(lambda: len(endpoint.got) >= len(orders), "all are told")

    assert endpoint.told() == [(order, "order.confirmed") for order in orders]


def test_a_worker_goes_on_where_another_ended(shop: Shop, endpoint: Endpoint) -> None:
    """Ended in the middle and started again, nothing is left out and what was written down is not told twice."""
    shop.add(endpoint.url)
    told: list[str] = []
    for n in range(3):
        with worker(shop):
            told += shop.confirm(f"a{n}", f"b{n}")
            eventually(lambda: endpoint.got, "something is told")
    with worker(shop):
        eventually(lambda: {order for order, _ in endpoint.told()} == set(told), "all are told")

    assert list(dict.fromkeys(order for order, _ in endpoint.told())) == told


def test_one_that_takes_nothing_for_a_day_is_given_up(shop: Shop, endpoint: Endpoint) -> None:
    """Disabled, with the reason and the last failure told; a ping it takes enables it, and it goes on where it was."""
    webhook_id, secret = shop.add(endpoint.url)
    endpoint.answers = [500, 500]
    with worker(shop) as scheduler:
        scheduler.calls.clock = lambda: datetime.now(UTC) + timedelta(days=2)
        owner(shop, "UPDATE task SET attempts = 101 WHERE type = 'push_webhook'")
        (missed,) = shop.confirm("a")
        eventually(lambda: shop.look(webhook_id)["state"] == "DISABLED", "it is given up")
        eventually(lambda: pushes(shop) == 0, "it is tried no more")
        given_up = shop.look(webhook_id)
        (later,) = shop.confirm("b")
        failed = shop.ask("POST", f"/v1/webhooks/{webhook_id}/test").body
        assert shop.look(webhook_id)["state"] == "DISABLED"
        taken = shop.ask("POST", f"/v1/webhooks/{webhook_id}/test").body
        eventually(lambda: len(endpoint.got) == 5, "what was missed is told")
        eventually(lambda: shop.look(webhook_id)["delivered_at"], "and written down")

    assert given_up["disabled_because"] == "it took nothing for a day"
    assert given_up["disabled_at"]
    assert (failed["delivered"], failed["status"], failed["failure"]) == (False, 500, "it answered 500")
    assert (taken["delivered"], taken["status"], taken["enabled"]) == (True, 204, True)
    assert [kind for _, kind in endpoint.told()[1:3]] == ["webhook.ping"] * 2
    assert verified(secret, *endpoint.got[2])
    assert endpoint.told()[3:] == [(missed, "order.confirmed"), (later, "order.confirmed")]
    assert (shop.look(webhook_id)["state"], shop.look(webhook_id)["disabled_because"]) == ("ENABLED", None)


def test_one_that_says_gone_is_given_up_at_once(shop: Shop, endpoint: Endpoint) -> None:
    """410 is an endpoint's own word that it is none any more."""
    webhook_id, _ = shop.add(endpoint.url)
    endpoint.answers = [410]
    with worker(shop):
        shop.confirm("a")
        eventually(lambda: shop.look(webhook_id)["state"] == "DISABLED", "it is given up")
    assert shop.look(webhook_id)["disabled_because"] == "it answered 410 Gone"


def test_two_secrets_sign_for_a_day(shop: Shop, endpoint: Endpoint) -> None:
    """After a rotation both verify, the older one for a day; both are listed, neither is shown again."""
    webhook_id, old = shop.add(endpoint.url)
    new = shop.ask("POST", f"/v1/webhooks/{webhook_id}/rotate").body["secret"]
    shop.ask("POST", f"/v1/webhooks/{webhook_id}/test")
    listed = shop.look(webhook_id)["secrets"]
    owner(
        shop,
        "UPDATE webhook SET secrets = jsonb_set(secrets, '{0,since}', to_jsonb(now() - %s::interval))",
        OVERLAP + timedelta(seconds=1),
    )
    shop.ask("POST", f"/v1/webhooks/{webhook_id}/test")

    both, one = endpoint.got
    assert old != new
    assert [verified(secret, *both) for secret in (old, new)] == [True, True]
    assert [verified(secret, *one) for secret in (old, new)] == [False, True]
    assert [bool(secret["until_at"]) for secret in listed] == [False, True]
    assert len(shop.look(webhook_id)["secrets"]) == 1


def test_one_that_is_removed_is_told_nothing(shop: Shop, endpoint: Endpoint) -> None:
    """Removed, it is no more: not listed, not told, no task left."""
    webhook_id, _ = shop.add(endpoint.url)
    assert [one["webhook_id"] for one in shop.ask("GET", "/v1/webhooks").body["webhooks"]] == [webhook_id]
    assert shop.ask("DELETE", f"/v1/webhooks/{webhook_id}").status == 204
    with worker(shop):
        shop.confirm("a")
        eventually(lambda: pushes(shop) == 0, "its task ends")

    assert endpoint.got == []
    assert shop.ask("GET", "/v1/webhooks").body["webhooks"] == []
    assert shop.ask("DELETE", f"/v1/webhooks/{webhook_id}").status == 404


def test_anothers_endpoint_is_none(shop: Shop, endpoint: Endpoint) -> None:
    """A foreign caller's is neither seen, pinged, rotated nor removed, and is told nothing of mine."""
    webhook_id = str(uuid7())
    shop.db.given(AddWebhook(webhook_id, "other", endpoint.url, ("order.confirmed",), "whsec_AAAA"))
    mine, _ = shop.add(endpoint.url)
    with worker(shop):
        shop.confirm("a")
        eventually(lambda: shop.look(mine)["delivered_at"], "mine is told")

    assert len(endpoint.got) == 1
    assert [one["webhook_id"] for one in shop.ask("GET", "/v1/webhooks").body["webhooks"]] == [mine]
    for method, path in (("GET", ""), ("POST", "/test"), ("POST", "/rotate"), ("DELETE", "")):
        assert shop.ask(method, f"/v1/webhooks/{webhook_id}{path}").status == 404


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/hook", "https://10.0.0.1/", "https://169.254.169.254/latest", "https://[fc00::1]/",
        "https://user:pass@127.0.0.1/", "https://127.0.0.1/#part", "https://no.such.name.invalid/",
        "http://192.168.1.1/", "https://127.0.0.1:99999/", "ftp://127.0.0.1/", "nothing",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_told_is_refused(shop: Shop, url: str) -> None:
    """Private, without TLS, with a login, unknown or none: 422 and why, and nothing is kept."""
    reply = shop.ask("POST", "/v1/webhooks", {"url": url})

    shaped = url.startswith("http")
    assert (reply.status, reply.body["code"]) == (422, "webhook-url-refused" if shaped else "validation-failed"), reply
    assert shop.ask("GET", "/v1/webhooks").body["webhooks"] == []


def test_endpoints_are_bounded(shop: Shop, endpoint: Endpoint) -> None:
    """One more than there may be is refused, with the way out."""
    for _ in range(MOST):
        shop.add(endpoint.url)
    reply = shop.ask("POST", "/v1/webhooks", {"url": endpoint.url})
    assert (reply.status, reply.body["code"], reply.body["limit"]) == (409, "webhook-limit", MOST)
