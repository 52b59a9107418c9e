"""A client made by a generator from /openapi.json has types for orders and for problems, and works."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from services.order.tests.shopfront import ORDER, Shop

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "requirements" / "generator.txt"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """openapi-python-client in an environment of its own."""
    there = tmp_path_factory.mktemp("generator") / "venv"
    uv: list[str | Path] = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, there], check=True)
    python = there / "bin" / "python"
    command = [*uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", LOCK]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the generator could not be installed: {installed.stderr.splitlines()[-1:]}")
    return there / "bin"


@pytest.fixture(scope="module")
def client(generator: Path, served: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The generated package."""
    folder = tmp_path_factory.mktemp("generated")
    command: list[str | Path] = [generator / "openapi-python-client", "generate", "--url", f"{served.url}/openapi.json"]
    env = {"PATH": f"{generator}:/usr/bin:/bin"}
    done = subprocess.run(
        [*command, "--output-path", folder / "shop_client", "--meta", "none", "--fail-on-warning"],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "omitted" not in done.stdout
    sys.path.insert(0, str(folder))
    yield importlib.import_module("shop_client")
    sys.path.remove(str(folder))


def test_a_generated_client_places_and_reads_an_order(client: Any, shop: Shop) -> None:  # noqa: ANN401 - generated
    """Its functions are named as our operations are; what they give are its types."""
    models = importlib.import_module("shop_client.models")
    place, read = (importlib.import_module(f"shop_client.api.orders.{name}") for name in ("place", "read"))
    with client.Client(base_url=shop.url) as api:
        placed = place.sync(client=api, body=models.NewOrder.from_dict(ORDER), idempotency_key=f"k-{uuid4()}")
        found = read.sync(placed.order_id, client=api)

    assert isinstance(found, models.OrderDocument)
    assert (found.status.value, found.amount_minor) == ("PENDING", 2500)


def test_a_problem_has_a_type_and_a_code(client: Any, shop: Shop) -> None:  # noqa: ANN401 - generated
    """Whatever is refused comes as Problem, whose code says what it is wherever the API stands."""
    models = importlib.import_module("shop_client.models")
    read, place = (importlib.import_module(f"shop_client.api.orders.{name}") for name in ("read", "place"))
    wrong = models.NewOrder.from_dict({**ORDER, "lines": [{"sku": "SKU-TEA", "quantity": 0, "unit_price_minor": 1}]})

    with client.Client(base_url=shop.url) as api:
        unknown = read.sync(uuid4(), client=api)
        refused = place.sync(client=api, body=wrong, idempotency_key="k-1")

    assert isinstance(unknown, models.Problem)
    assert (unknown.code, unknown.status, unknown.retryable) == ("not-found", 404, False)
    assert isinstance(refused, models.Problem)
    assert refused.code == "validation-failed"
    assert [error.pointer for error in refused.errors] == ["/lines/0/quantity"]
