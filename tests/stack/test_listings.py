"""What commands list and tell: versions, relays, traces, the document of the topics, an order's failures, its events.

Each in the forms there are; what their help pages show is run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml

from quadrille_cli.demo_data import order_of
from quadrille_cli.services import CONSOLE, SERVICES
from tests.conftest import Shop, away

SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
TEA, NONE = [("SKU-TEA", 1)], [("SKU-NONE", 1)]
ROOT = Path(__file__).parents[2]
Ran = tuple[int, str, str]


def run(data: Path, *words: str) -> Ran:
    """Exit code, stdout and stderr of the command, on a screen of 80 columns."""
    env = {**os.environ, "QUADRILLE_DATA": str(data), "COLUMNS": "80"}
    line = [sys.executable, "-m", "quadrille_cli", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def examples(data: Path, *words: str) -> list[list[str]]:
    """What the help page of a command shows at its end, each as the words after `quadrille`."""
    page = run(data, *words, "--help")[1].partition("Examples:\n")[2]
    return [shlex.split(line)[1:] for line in page.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def declined(shop: Shop) -> str:
    """An order that was cancelled, for its card was declined."""
    order = shop.submit(TEA, "tok_declined_funds")
    assert shop.ended(order)["status"] == "CANCELLED"
    return order


def test_the_version_is_what_runs(tmp_path: Path) -> None:
    """Release, Python and system, in words and as a document; another form of output is wrong usage."""
    told = [run(tmp_path, *words) for words in examples(tmp_path, "version")]
    assert [(code, err) for code, _, err in told] == [(0, ""), (0, "")]
    document = json.loads(told[1][1])
    assert (document["python"], document["system"]) == (
        platform.python_version(), f"{platform.system()} {platform.machine()}",
    )  # fmt: skip
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", document["quadrille"])
    assert [line.split(maxsplit=1)[1] for line in told[0][1].splitlines()] == list(document.values())
    assert run(tmp_path, "version", "-o", "xml")[0] == 2


def test_the_document_of_the_topics_is_printed(tmp_path: Path) -> None:
    """YAML and JSON say the same as docs/asyncapi.yaml, without any stack."""
    (code, text, err), (also, document, _) = (run(tmp_path, *words) for words in examples(tmp_path, "asyncapi"))
    assert (code, also, err) == (0, 0, "")
    page = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text("utf-8"))
    assert yaml.safe_load(text) == json.loads(document) == page


def test_each_relay_tells_how_it_stands(shop: Shop) -> None:
    """Its state, its slot, WAL kept, the age of its beat; one that is away is named, with exit 7 and what starts it."""
    data = shop.stack.data
    shown, one = (run(data, *words) for words in examples(data, "relay", "status"))
    assert (shown[0], one[0]) == (0, 0), shown[2] + one[2]
    lines = shown[1].splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [[name, "streaming", "reserved"] for name in SERVICES]
    assert max(map(len, lines)) <= 80
    [told] = json.loads(one[1])
    assert (told["service"], told["slot"]["name"], told["slot"]["active"]) == ("payment", "quadrille_payment", True)
    assert told["slot"]["wal_kept_bytes"] >= told["behind_bytes"] >= 0
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", told["position_lsn"])

    with away(shop.stack, "payment-relay"):
        code, out, err = run(data, "relay", "status")
        assert (code, "payment" in out, "quadrille start payment-relay" in err) == (7, False, True)
    assert run(data, "relay", "status", "--service", "shop")[0] == 2


def test_a_relay_that_waits_is_told_by_the_exit_code(shop: Shop) -> None:
    """Without its database it is not asked in vain: the command says what to start, and exits 7."""
    with away(shop.stack, "postgres:notification"):
        code, out, err = run(shop.stack.data, "relay", "status")
    assert (code, "notification" in out, "quadrille start postgres:notification" in err) == (7, False, True)


def test_the_last_traces_are_listed_by_page(shop: Shop) -> None:
    """Newest first, over REST page by page without a gap or a repeat, on the command line with their orders."""
    orders = [shop.submit(TEA) for _ in range(3)]
    wanted = {shop.order(order)["trace_id"] for order in orders}
    base, data = shop.stack.url(CONSOLE), shop.stack.data

    def pages(limit: int) -> list[str]:
        found: list[str] = []
        cursor = ""
        while len(found) < 200:
            body = httpx.get(f"{base}/v1/traces?limit={limit}{cursor}").json()
            found += [one["trace_id"] for one in body["traces"]]
            if body["next"] is None:
                break
            cursor = f"&cursor={body['next']}"
        return found

    shop.until(lambda: wanted <= set(pages(200)), "their traces are there")
    found = pages(2)
    assert len(found) == len(set(found))
    assert wanted <= set(found)
    line = next(one for one in httpx.get(f"{base}/v1/traces?limit=200").json()["traces"] if one["trace_id"] in wanted)
    assert (line["order_id"] in orders, line["spans"] > 0, line["took_ms"] > 0) == (True, True, True)

    code, out, err = run(data, "trace", "--limit", "200")
    assert (code, max(map(len, out.splitlines())) <= 80) == (0, True), err
    assert all(trace[-8:] in out for trace in wanted)
    assert any(order[-8:] in out for order in orders)
    told = json.loads(run(data, "trace", "-o", "json", "--limit", "2")[1])
    assert len(told) == 2
    for words in examples(data, "trace"):
        assert run(data, *[orders[0] if word == SAMPLE else word for word in words])[0] == 0
    assert run(data, "trace", "--export", "trace.json")[0] == 2
    problem = httpx.get(f"{base}/v1/traces?limit=0")
    assert (problem.status_code, httpx.get(f"{base}/v1/traces?cursor=x").status_code) == (422, 422)


def test_only_failures_are_drawn_with_what_led_to_them(shop: Shop, declined: str) -> None:
    """Of an order whose card was declined: the refusal and its causes, as a tree and in Mermaid's words."""
    data = shop.stack.data
    whole = run(data, "timeline", declined)[1]
    code, out, err = run(data, "timeline", declined, "--failed")
    kinds = [line.split()[2] for line in out.splitlines()]
    assert (code, kinds[-1]) == (0, "payment.declined"), err
    assert set(kinds) <= {"order.placed", "stock.reserved", "payment.declined"}
    assert len(kinds) < len(whole.splitlines())

    code, out, _ = run(data, "timeline", declined, "--failed", "--mermaid")
    first, *lines = out.splitlines()
    assert (code, first) == (0, "sequenceDiagram")
    assert {line.split()[1] for line in lines if line.startswith("    participant ")} <= set(SERVICES)
    assert [line for line in lines if re.search(r"(->>\w+|Note over payment): payment.declined \(\d+\.\d{3} s\)", line)]
    arrow = re.compile(
        r"    (participant \w+|\w+->>\w+: [\w.]+ \(\d+\.\d{3} s\)|Note over \w+: [\w.]+ \(\d+\.\d{3} s\))"
    )
    assert [line for line in lines if not arrow.fullmatch(line)] == []

    for words in examples(data, "timeline"):
        assert run(data, *[declined if word == SAMPLE else word for word in words])[0] == 0


def test_of_an_order_without_failure_nothing_is_drawn(shop: Shop) -> None:
    """That is said, by how many events were looked at, and is no error."""
    order = shop.submit(TEA)
    shop.ended(order)
    code, out, err = run(shop.stack.data, "timeline", order, "--failed", "--mermaid")
    assert (code, out) == (0, "")
    assert re.search(rf"nothing of order {order} failed: \d+ events", err)


def test_only_events_of_a_type_are_watched(shop: Shop, declined: str) -> None:
    """Of an order's story those of the type, or all that begin so; of all orders the next that comes."""
    data = shop.stack.data
    code, out, err = run(data, "watch", declined, "--type", "payment.declined", "--limit", "1", "-o", "jsonl")
    assert (code, json.loads(out)["type"]) == (0, "payment.declined"), err
    code, out, _ = run(data, "watch", declined, "--type", "stock.", "--limit", "2", "-o", "jsonl")
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["stock.reserved", "stock.released"]

    env = {**os.environ, "QUADRILLE_DATA": str(data)}
    line = [sys.executable, "-m", "quadrille_cli", "watch", "--type", "stock.rejected", "--limit", "1", "-o", "jsonl"]
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) as watching:
        orders = set[str]()

        def told() -> bool:
            orders.add(shop.submit(NONE))  # until it is heard: nobody knows when the watching has begun
            return watching.poll() is not None

        shop.until(told, "the next refusal is seen")
        assert watching.stdout is not None
        seen = json.loads(watching.stdout.read())
    assert (watching.returncode, seen["type"], seen["order_id"] in orders) == (0, "stock.rejected", True)


def test_a_name_that_may_mean_two_orders_does_nothing(shop: Shop) -> None:
    """Two customers call theirs the same: whoever acts on that name is told both, exit 2, and nothing is done."""
    name = f"basket-{uuid4().hex[:8]}"
    orders = []
    for customer in ("cust_demo", "cust_other"):
        body = order_of(TEA, customer=customer) | {"reference": name}
        key = {"Idempotency-Key": f"test-{uuid4()}"}
        orders.append(shop.ask("order", "POST", "/v1/orders", body, key)["order_id"])
    data = shop.stack.data
    for words in (("orders", "cancel", name), ("why", name), ("timeline", name), ("trace", name), ("watch", name)):
        code, out, err = run(data, *words)
        assert (code, out, [order in err for order in orders]) == (2, "", [True, True]), words
    assert {shop.ended(order)["status"] for order in orders} == {"CONFIRMED"}

    for odd in ("zzzz9", "%%%%", "'; --", "no-such-basket", "\u202e\x1b[2J"):
        code, out, err = run(data, "orders", "show", odd)
        assert (code, out, "\x1b" in err) in {(5, "", False), (2, "", False)}, odd
