"""`quadrille webhooks` on the whole stack: an endpoint is added, tested, told, rotated and removed as the help says."""

from __future__ import annotations

import json

from tests.chassis.support.database import wait_until
from tests.clients.conftest import an_endpoint, verified
from tests.conftest import Shop
from tests.stack.test_operators import SAMPLE, Command

HERE = "http://127.0.0.1:9000/hook"


def test_the_examples_of_webhooks_run_and_an_end_is_told(shop: Shop) -> None:
    """Each help page's examples succeed on a real endpoint; an order's end reaches it, signed by the secret shown."""
    quadrille = Command(shop)

    def examples(verb: str, identity: str, ending: str = "") -> list[tuple[int, str, str]]:
        pages = quadrille.examples("webhooks", verb)
        assert len(pages) == 2
        swapped = {SAMPLE: identity, SAMPLE[-8:]: ending[-8:], HERE: endpoint.url}
        return [quadrille.run(*(swapped.get(word, word) for word in words)) for words in pages]

    with an_endpoint() as endpoint:
        added = examples("add", SAMPLE)
        assert [code for code, _, _ in added] == [0, 0], added
        every = next(line.split()[1] for line in added[0][1].splitlines() if line.startswith("webhook "))
        secret = next(line.split()[1] for line in added[0][1].splitlines() if line.startswith("secret "))
        other = json.loads(added[1][1])["webhook_id"]
        for verb in ("list", "show", "test"):
            assert [code for code, _, _ in examples(verb, every)] == [0, 0], verb

        order_id = shop.submit([("SKU-TEA", 1)])
        wait_until(lambda: (order_id, "order.confirmed") in endpoint.told(), "the end is told")
        told = next(one for one, (order, _) in zip(endpoint.got, endpoint.told(), strict=True) if order == order_id)
        assert verified(secret, *told)
        wait_until(lambda: "nothing yet" not in quadrille.run("webhooks", "show", every)[1], "it is seen")

        assert [code for code, _, _ in examples("rotate", every)] == [0, 0]
        endpoint.answers = [500]
        code, out, err = quadrille.run("webhooks", "test", every[-8:])
        assert (code, "it answered 500" in err) == (3, True), out + err
        assert [code for code, _, _ in examples("remove", every, other)] == [0, 0]
        assert quadrille.run("webhooks", "remove", other)[0] == 5
    assert "no endpoint is told anything" in quadrille.run("webhooks", "list")[1]
