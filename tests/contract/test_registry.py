"""The registry holds what was published, nothing else, and judges as our offline check does; it is a real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quadrille.avro import schemas
from quadrille.avro.registry import Registry, RegistryUnavailableError
from quadrille_cli.commands import schema
from quadrille_cli.schema import lifecycle
from quadrille_cli.schema import published as schema_published

NOWHERE = "http://127.0.0.1:1"
_NAMES = count()
RUN = CliRunner()


@pytest.fixture(scope="module")
def url(parts_of_the_stack: Callable[..., Any]) -> str:
    found: str = parts_of_the_stack("registry").registry_url
    lifecycle.apply(found, lifecycle.root())
    return found


def test_applying_is_idempotent(url: str) -> None:
    """Every published version is in the registry under its record's name; applied again, ids stay."""
    once = lifecycle.apply(url, lifecycle.root())
    published, _ = schema_published.load(lifecycle.root())

    assert lifecycle.apply(url, lifecycle.root()) == once
    assert {name: len(ids) for name, ids in once.ids.items()} == {n: len(v) for n, v in published.versions.items()}
    assert [line for line in lifecycle.diff(url, lifecycle.root()) if not line.startswith("quadrille.tests.")] == []


def test_an_id_leads_back_to_its_schema(url: str) -> None:
    """The id a producer writes before a value is the one under which its consumers find the schema."""
    registry = Registry(url)
    for said in schemas.emitted_by("chassis"):
        number = registry.id_of(said)
        assert number is not None
        assert schemas.parse(registry.text_of(number) or "").fingerprint == said.fingerprint


def test_differences_are_named(url: str, tmp_path: Path) -> None:
    """What is missing in the registry, what is there unasked, and a weaker level are each a line of the difference."""
    folder = Path(shutil.copytree(lifecycle.root(), tmp_path / "schemas"))
    key = {"name": "order_id", "type": "string"}
    new = {"type": "record", "name": "ThingDone", "namespace": "quadrille.order", "doc": "It is done.", "fields": [key]}
    (folder / "order" / "thing.done.avsc").write_text(json.dumps(new), "utf-8")
    lifecycle.publish(folder)
    published, _ = schema_published.load(folder)
    without = {n: v for n, v in published.versions.items() if n != "quadrille.payment.PaymentDeclined"}
    schema_published.store(folder, schema_published.Published(without))

    found = lifecycle.diff(url, folder)

    assert "quadrille.order.ThingDone: a published version is not in the registry" in found
    assert "quadrille.payment.PaymentDeclined: the registry has a version that was never published" in found


def test_a_weaker_level_is_mended(url: str) -> None:
    """A registry that no longer demands FULL_TRANSITIVE is a difference, until the schemas are applied again."""
    Registry(url).ask("PUT", "/config", {"compatibility": "NONE"})
    found = lifecycle.diff(url, lifecycle.root())
    lifecycle.apply(url, lifecycle.root())

    assert "compatibility is NONE, not FULL_TRANSITIVE" in found
    assert not any("compatibility" in line for line in lifecycle.diff(url, lifecycle.root()))


FIELD: dict[str, Any] = {"name": "a", "type": "string"}
OPTIONAL: dict[str, Any] = {"name": "b", "type": ["null", "string"], "default": None}
CHANGES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "nothing": ([FIELD], [FIELD]),
    "optional added": ([FIELD], [FIELD, OPTIONAL]),
    "optional removed": ([FIELD, OPTIONAL], [FIELD]),
    "required added": ([FIELD], [FIELD, {"name": "b", "type": "string"}]),
    "required removed": ([FIELD, {"name": "b", "type": "string"}], [FIELD]),
    "another type": ([FIELD], [{"name": "a", "type": "long"}]),
    "int to long": ([{"name": "a", "type": "int"}], [{"name": "a", "type": "long"}]),
    "made optional": ([FIELD], [{"name": "a", "type": ["null", "string"], "default": None}]),
    "renamed": ([FIELD], [{"name": "c", "type": "string"}]),
}


@pytest.mark.proves("F21")
@pytest.mark.parametrize("change", CHANGES)
def test_offline_and_registry_judge_alike(url: str, change: str) -> None:
    """What the offline check lets pass, the registry takes; what it refuses, the registry refuses."""
    name = f"Judged{next(_NAMES)}"
    old, new = (
        schemas.of({"type": "record", "name": name, "namespace": "quadrille.tests", "fields": fields})
        for fields in CHANGES[change]
    )
    registry = Registry(url)
    registry.ask("POST", f"/subjects/{old.name}/versions", {"schema": old.text})

    status, _ = registry.ask("POST", f"/subjects/{old.name}/versions", {"schema": new.text})

    assert (status == 200) == (not [*schema_published.incompatible([old, new])])
    assert status in (200, 409)


def test_a_registry_that_is_away_is_said_so() -> None:
    """Applying to, or comparing with, a registry that is away exits with 7, and says so."""
    for command in ("apply", "diff"):
        ended = RUN.invoke(schema.app, [command, "--registry", NOWHERE])
        assert ended.exit_code == 7
        assert "is the stack up?" in ended.output
    with pytest.raises(RegistryUnavailableError):
        lifecycle.apply(NOWHERE, lifecycle.root())


def test_the_commands_say_what_they_found(url: str, tmp_path: Path) -> None:
    """`quadrille schema check`, `apply` and `diff` print their finding and exit 0 or 1."""
    spoilt = Path(shutil.copytree(lifecycle.root(), tmp_path / "schemas"))
    (spoilt / "payment" / "payment.declined.avsc").unlink()
    good, bad = (RUN.invoke(schema.app, ["check", "--schemas", str(folder)]) for folder in (lifecycle.root(), spoilt))
    applied = RUN.invoke(schema.app, ["apply", "--registry", url])

    assert (good.exit_code, bad.exit_code, applied.exit_code) == (0, 1, 0)
    assert "its file is gone" in bad.output
    assert "are in the registry" in applied.output
