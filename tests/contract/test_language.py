"""The language of the services is the one that was agreed, and every rule of it has teeth."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from quadrille.avro import schemas
from quadrille_cli.schema import lifecycle, published, rules

# contracts.md, section 1: what every event carries, order_id first
EVENTS = {
    "order": {
        "order.placed": "order_id customer_id lines amount_minor currency payment_token deadline_at",
        "order.cancellation_requested": "order_id reason requested_by status_then",
        "order.confirmed": "order_id customer_id amount_minor currency",
        "order.cancelled": "order_id customer_id reason settlement",
        "order.compensation_failed": "order_id participant error_class attempts error",
        "order.compensation_resolved": "order_id participant how",
    },
    "inventory": {
        "stock.reserved": "order_id lines",
        "stock.rejected": "order_id shortages",
        "stock.committed": "order_id",
        "stock.released": "order_id had_hold returned",
        "stock.release_failed": "order_id error_class attempts error",
        "stock.resolved": "order_id how operator evidence",
    },
    "payment": {
        "payment.charged": "order_id payment_id provider_reference amount_minor currency",
        "payment.declined": "order_id code",
        "payment.outcome_unknown": "order_id attempts since_at",
        "payment.skipped": "order_id reason",
        "payment.refunded": "order_id refund_id kind amount_minor currency",
        "payment.refund_failed": "order_id error_class code attempts",
        "payment.resolved": "order_id how operator evidence",
    },
    "notification": {
        "notification.sent": "order_id kind channel",
        "notification.failed": "order_id kind error",
        "notification.suppressed": "order_id kind reason",
    },
    "chassis": {
        "compensation.attempted": "order_id participant step attempt outcome error_class error next_attempt_at",
        "order.stuck": "order_id owes fact since_at level",
        "input.parked": "order_id service event_id error_class error behind",
        "input.dead": "order_id service event_id error_class error behind",
        "input.redriven": "order_id service event_id operator reason",
        "input.discarded": "order_id service event_id operator reason",
        "input.buried": "order_id event_id raw cut service event_type place error_class error attempts fingerprint",
        "intake.paused": "service cause",
        "intake.resumed": "service cause",
        "relay.recovered": "service cause rows took_ms",
        "progress.stalled": "service role detail since_at",
        "progress.resumed": "service role since_at took_ms",
        "service.silent": "service silent since_at",
        "service.heard": "service silent since_at",
        "replay.started": "service operation_id mode topic records operator reason",
        "replay.ended": "service operation_id mode topic records operator reason",
        "finding.raised": "service invariant detail order_id finding_id expected found evidence",
        "finding.closed": "service finding_id invariant order_id",
        "audit.sealed": "service head",
        "canary.beat": "service number said_at",
    },
}
ALL = [(service, wire_type) for service, types in EVENTS.items() for wire_type in types]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the schemas, to be spoilt."""
    return Path(shutil.copytree(lifecycle.root(), tmp_path / "schemas"))


def edit(folder: Path, wire_type: str, changed: dict[str, Any]) -> None:
    """Change attributes of a schema file."""
    file = next(folder.glob(f"*/{wire_type}.avsc"))
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changed), "utf-8")


@pytest.mark.parametrize(("service", "wire_type"), ALL, ids=[wire_type for _, wire_type in ALL])
def test_every_agreed_event_has_its_schema(service: str, wire_type: str) -> None:
    """Every event of the saga, and of the chassis, has a schema with the agreed fields in the agreed order."""
    raw = json.loads((lifecycle.root() / service / f"{wire_type}.avsc").read_text("utf-8"))

    assert [field["name"] for field in raw["fields"]] == EVENTS[service][wire_type].split()


def test_nothing_else_is_said() -> None:
    """No schema exists that was not agreed."""
    files = {(file.parent.name, file.stem) for file in lifecycle.root().glob("*/*.avsc")}

    assert files == set(ALL)


def test_the_schemas_are_in_order() -> None:
    """`quadrille schema check` has nothing to say about this repository."""
    assert lifecycle.check(lifecycle.root()) == []


BASE: dict[str, Any] = {
    "type": "record",
    "name": "ThingDone",
    "namespace": "quadrille.order",
    "doc": "A thing is done.",
    "fields": [{"name": "order_id", "type": "string"}],
}


def with_field(**field: object) -> dict[str, Any]:
    """Return the good schema with one more field."""
    return BASE | {"fields": [*BASE["fields"], {"name": "note", "doc": "A note.", "type": "string"} | field]}


PLANTED = {
    "another name than its file": BASE | {"name": "ThingUndone"},
    "another service's namespace": BASE | {"namespace": "quadrille.payment"},
    "no doc": {key: value for key, value in BASE.items() if key != "doc"},
    "a doc that is no sentence": BASE | {"doc": "thing"},
    "an alias": BASE | {"aliases": ["Thing"]},
    "order_id not first": BASE | {"fields": with_field()["fields"][::-1]},
    "order_id not a string": BASE | {"fields": [{"name": "order_id", "type": "long"}]},
    "a field without a doc": with_field(doc=""),
    "a nested record without a doc": with_field(
        type={
            "type": "array",
            "items": {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]},
        }
    ),
    "a nested field without a doc": with_field(
        type={
            "type": "array",
            "items": {"type": "record", "name": "L", "doc": "L.", "fields": [{"name": "x", "type": "string"}]},
        }
    ),
    "a float": with_field(type="double"),
    "recursion": with_field(type=["null", "ThingDone"], default=None),
    "items of no width": with_field(type={"type": "array", "items": {"type": "record", "name": "Line", "fields": []}}),
    "a logical type": with_field(name="since_at", type={"type": "long", "logicalType": "timestamp-millis"}),
    "an enum": with_field(type={"type": "enum", "name": "E", "symbols": ["A"], "doc": "E."}),
    "a list of texts": with_field(type={"type": "array", "items": "string"}),
    "a map of numbers": with_field(type={"type": "map", "values": "long"}),
    "a record in a record": with_field(
        type={"type": "record", "name": "L", "doc": "L.", "fields": [{"name": "sku", "type": "string"}]}
    ),
    "a time that is no long": with_field(name="since_at", type="int"),
    "money that is no long": with_field(name="price_minor", type="int"),
    "a count that is no int": with_field(name="attempts", type="long"),
    "an amount without currency": with_field(name="amount_minor", type="long"),
    "camel case": with_field(name="someNote"),
    "an optional field without default": with_field(type=["null", "string"]),
    "a default of its own": with_field(default="x"),
    "an optional field first": BASE
    | {
        "fields": [
            *BASE["fields"],
            {"name": "note", "doc": "A note.", "type": ["null", "string"], "default": None},
            {"name": "code", "doc": "A code.", "type": "string"},
        ]
    },
}


@pytest.mark.parametrize("fault", PLANTED)
def test_each_rule_has_teeth(folder: Path, fault: str) -> None:
    """Each planted fault turns `quadrille schema check` red, and keeps the schema from being published."""
    (folder / "order" / "thing.done.avsc").write_text(json.dumps(PLANTED[fault]), "utf-8")

    assert any("thing.done.avsc: " in finding for finding in lifecycle.check(folder))
    with pytest.raises(lifecycle.SchemaRefusedError):
        lifecycle.publish(folder)


def test_a_new_event_is_published_once(folder: Path) -> None:
    """A good new schema is asked to be published, is then published, and asks for nothing more."""
    (folder / "order" / "thing.done.avsc").write_text(json.dumps(BASE), "utf-8")
    asked = lifecycle.check(folder)

    added = lifecycle.publish(folder)

    assert asked == ["quadrille.order.ThingDone: not published yet: run quadrille schema publish"]
    assert added == ["quadrille.order.ThingDone"]
    assert lifecycle.check(folder) == []
    assert lifecycle.publish(folder) == []


def test_a_type_needs_its_form(folder: Path) -> None:
    """A file that is not named noun.past_participle is refused."""
    (folder / "order" / "ThingDone.avsc").write_text(json.dumps(BASE), "utf-8")

    assert any("noun.past_participle" in finding for finding in lifecycle.check(folder))


OPTIONAL = {"name": "note", "type": ["null", "string"], "default": None, "doc": "A note."}


def skipped_fields() -> dict[str, Any]:
    """Return `payment.skipped` as it is published."""
    found: dict[str, Any] = json.loads((lifecycle.root() / "payment" / "payment.skipped.avsc").read_text("utf-8"))
    return found


def test_an_optional_field_may_be_added(folder: Path) -> None:
    """A field that may be missing can be added at the end: old and new read each other."""
    edit(folder, "payment.skipped", {"fields": [*skipped_fields()["fields"], OPTIONAL]})

    assert lifecycle.publish(folder) == ["quadrille.payment.PaymentSkipped"]
    assert lifecycle.check(folder) == []


BREAKING: dict[str, list[dict[str, Any]]] = {
    "a field removed": [{"name": "order_id", "type": "string"}],
    "a field renamed": [
        {"name": "order_id", "type": "string"},
        {"name": "because", "type": "string", "doc": "Why."},
    ],
    "a field required": [
        *skipped_fields()["fields"],
        {"name": "note", "type": "string", "doc": "A note."},
    ],
    "a field of another type": [
        {"name": "order_id", "type": "string"},
        {"name": "reason", "type": "int", "doc": "Why."},
    ],
    "a field made optional": [
        {"name": "order_id", "type": "string"},
        {"name": "reason", "type": ["null", "string"], "default": None, "doc": "Why."},
    ],
}


@pytest.mark.proves("F21")
@pytest.mark.parametrize("fault", BREAKING)
def test_a_breaking_change_is_refused(folder: Path, fault: str) -> None:
    """A version that some published version cannot read, or that cannot read one, is refused in either direction."""
    edit(folder, "payment.skipped", {"fields": BREAKING[fault]})

    assert any("PaymentSkipped: version" in finding and "cannot read" in finding for finding in lifecycle.check(folder))
    with pytest.raises(lifecycle.SchemaRefusedError):
        lifecycle.publish(folder)


def test_every_version_counts_not_only_the_newest(folder: Path) -> None:
    """A change that only a version before the newest cannot bear is refused: the rule is transitive."""
    edit(folder, "payment.skipped", {"fields": [*skipped_fields()["fields"], OPTIONAL]})
    lifecycle.publish(folder)
    edit(folder, "payment.skipped", {"fields": skipped_fields()["fields"]})
    lifecycle.publish(folder)
    edit(folder, "payment.skipped", {"fields": [*skipped_fields()["fields"], OPTIONAL | {"type": ["null", "int"]}]})

    found = [finding for finding in lifecycle.check(folder) if "cannot read" in finding]

    assert found
    assert all("2" in finding.split(":")[1] for finding in found)


def test_what_was_published_cannot_change(folder: Path) -> None:
    """A version edited, or an event removed, after it was published is noticed."""
    file = folder / published.FILE
    file.write_text(file.read_text("utf-8").replace('"name":"head"', '"name":"tail"'), "utf-8")
    (folder / "payment" / "payment.declined.avsc").unlink()

    found = lifecycle.check(folder)

    assert any("AuditSealed version 1 was changed" in finding for finding in found)
    assert any("PaymentDeclined: published, its file is gone" in finding for finding in found)


def test_a_good_schema_breaks_no_rule() -> None:
    """The schema into which the faults are planted has none of its own."""
    raw = deepcopy(BASE)

    assert [*rules.findings(raw, schemas.of(raw), "order", "thing.done")] == []
