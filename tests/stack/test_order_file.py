"""Orders from a file: placed once each, what is refused told by its line, how far it came by the exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from quadrille_cli.order_file import FileOrder, read
from tests.conftest import Shop

TEA = {"lines": [{"sku": "SKU-TEA", "quantity": 1, "unit_price_minor": 1250}]}
COUNT = "SELECT count(*) FROM orders WHERE reference LIKE %s"


def run(shop: Shop, *words: str, text: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `orders place`."""
    env = {**os.environ, "QUADRILLE_DATA": str(shop.stack.data), "COLUMNS": "80"}
    line = [sys.executable, "-m", "quadrille_cli", "orders", "place", *words]
    done = subprocess.run(line, env=env, input=text, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def found(text: bytes) -> list[FileOrder]:
    """What is read of a file."""
    return list(read(io.BytesIO(text), {"currency": "EUR"}))


def test_lines_and_arrays_are_read_and_what_is_wrong_is_that_orders() -> None:
    """An empty line counts, and is none; of an array the place; what is no object, no JSON or no text is told."""
    lines = found(b'\n{"a": 1}\n\n[1]\n{"a": \n\xff\xfe\n' + b"[" * 100_000 + b"\n" + b'{"currency": "USD"}')
    assert [one.line for one in lines] == [2, 4, 5, 6, 7, 8]
    assert [one.body for one in lines] == [{"currency": "EUR", "a": 1}, None, None, None, None, {"currency": "USD"}]
    assert [one.wrong[:8] for one in lines[1:5]] == ["an order", "not JSON", "not JSON", "not JSON"]

    array = found(b' [{"a": 1}, 7]')
    assert [(one.line, one.body is not None) for one in array] == [(1, True), (2, False)]
    assert found(b"[{") == [FileOrder(1, None, array_words(b"[{"))]
    assert found(b"") == found(b" \n\n") == []


def array_words(text: bytes) -> str:
    """How a broken array is told."""
    with pytest.raises(ValueError, match="Expecting") as wrong:
        json.loads(text + b"\n")
    return f"not a JSON array: {wrong.value}"


def test_a_long_list_is_not_held_in_memory() -> None:
    """Of a hundred thousand orders the first are there before the rest has been read."""
    file = io.BytesIO(b'{"a": 1}\n' * 100_000)
    assert len(list(islice(read(file, {}), 3))) == 3
    assert file.tell() < 1000
    assert sum(1 for _ in read(io.BytesIO(b'{"a": 1}\n' * 100_000), {})) == 100_000


def test_a_file_is_placed_once_and_each_refusal_has_its_line(shop: Shop, tmp_path: Path) -> None:
    """Of 300 orders three are refused: exit 8; asked again under the same name nothing is placed twice."""
    name = uuid4().hex[:8]
    orders: list[Any] = [{**TEA, "reference": f"{name}-{n}"} for n in range(300)]
    orders[9] = {"lines": [], "reference": f"{name}-9"}
    orders[99] = {**TEA, "customer_id": "\u001b[2J", "colour": "red"}
    text = [json.dumps(one) for one in orders]
    text[199] = "no JSON"
    file = tmp_path / "orders.jsonl"
    file.write_text("\n".join(text), encoding="utf-8")

    code, out, err = run(shop, "--file", str(file), "--idempotency-key", name)
    assert (code, out.startswith("297 placed, 3 refused, ")) == (8, True), out + err
    told = {line.partition(":")[0]: line for line in err.splitlines() if line.startswith("line ")}
    assert list(told) == ["line 10", "line 100", "line 200"]
    assert "422 validation-failed" in told["line 10"]
    assert "/lines" in told["line 10"]
    assert "colour" in told["line 100"]
    assert ("not JSON" in told["line 200"], "\x1b" in err) == (True, False)
    assert shop.sql("order", COUNT, f"{name}-%") == [(297,)]

    code, out, _ = run(shop, "--file", str(file), "--idempotency-key", name)
    assert (code, out.startswith("297 placed (297 of them before), 3 refused")) == (8, True)
    assert shop.sql("order", COUNT, f"{name}-%") == [(297,)]


def test_an_array_on_stdin_is_placed_and_told_to_programs(shop: Shop) -> None:
    """With -o jsonl a document an order on stdout, with its line and id; all placed is exit code 0."""
    code, out, err = run(shop, "--file", "-", "-o", "jsonl", text=json.dumps([TEA, TEA]).encode())
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, [(one["line"], one["state"]) for one in told]) == (0, [(1, "placed"), (2, "placed")]), err
    assert {shop.order(one["order_id"])["customer_id"] for one in told} == {"cust_demo"}


def test_while_no_orders_are_taken_the_rest_is_not_asked_for(shop: Shop, tmp_path: Path) -> None:
    """Shut by a person: it ends at once with how to go on; nothing was placed, and that is exit code 7."""
    file = tmp_path / "orders.jsonl"
    file.write_text((json.dumps(TEA) + "\n") * 50, encoding="utf-8")
    shop.ask("order-api", "POST", "/ops/intake/pause", {"reason": "a test"})
    try:
        code, out, err = run(shop, "--file", str(file), "--idempotency-key", f"shut-{uuid4()}")
    finally:
        shop.ask("order-api", "POST", "/ops/intake/resume", {"reason": "it is over"})
    assert (code, out.startswith("0 placed, 50 not asked, ")) == (7, True), out + err
    assert "503 overloaded (PAUSED)" in err
    assert "go on: the same with --idempotency-key shut-" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--file", "/no/such/file"), "a file that can be read"),
        (("--file", "/tmp"), "a file that can be read"),  # noqa: S108 - a directory that is there
        (("--file", os.devnull), "a file with orders in it"),
        (("--file", os.devnull, "--wait"), "the file alone says what is ordered"),
        (("--file", os.devnull, "--sku", "SKU-TEA"), "the file alone says what is ordered"),
    ],
)
def test_a_file_that_cannot_be_meant_is_wrong_usage(shop: Shop, words: tuple[str, ...], said: str) -> None:
    """No such file, none at all in it, or options that speak of one order: exit 2, and what is wanted."""
    code, _, err = run(shop, *words)
    assert (code, said in " ".join(err.split())) == (2, True), err


def test_when_every_order_is_refused_that_is_told_by_the_exit_code(shop: Shop) -> None:
    """Nothing was placed, for what the orders are: 3; no stack at all: 7."""
    assert run(shop, "--file", "-", text=b'{"lines": []}\n{"lines": 1}\n')[0] == 3
    assert run(shop, "--file", "-", "--data", "/no/stack", text=json.dumps(TEA).encode())[0] == 7
