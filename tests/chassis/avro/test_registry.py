"""Ids and schemas with the registry there, away, rebuilt, and lied to; the registry is a real one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from quadrille.avro import schemas
from quadrille.avro.codec import Codec
from quadrille.avro.decoder import DecodeError
from quadrille.avro.registry import (
    Cache,
    NotRegisteredError,
    Registry,
    RegistryChangedError,
    RegistryUnavailableError,
    SchemaIds,
    numbered,
)
from quadrille.avro.schemas import Schema
from quadrille.gateway.breaker import Limits, shown
from quadrille.messages import Event, Infrastructure
from quadrille.observability import degraded, metrics
from quadrille.observability.readiness import NotReadyError
from quadrille.ops.health import registry_asked

NOWHERE = Registry("http://127.0.0.1:1", timeout=1)
_NAMES = count()


def fresh(*fields: str) -> dict[str, Any]:
    """Return a schema that no registry has seen."""
    named = [{"name": name, "type": "string"} for name in fields or ("key",)]
    return {"type": "record", "name": f"Fresh{next(_NAMES)}", "namespace": "quadrille.tests", "fields": named}


@pytest.fixture(scope="session")
def registry(parts_of_the_stack: Callable[..., Any]) -> Registry:
    return Registry(parts_of_the_stack("registry").registry_url)


def register(registry: Registry, schema: Schema) -> int:
    """Put a schema into the registry, whatever it thinks of it."""
    _, answer = registry.ask("POST", f"/subjects/{schema.name}/versions", {"schema": schema.text})
    number = answer["id"]
    assert isinstance(number, int)
    return number


def test_known_ids_work_with_the_registry_away(registry: Registry, tmp_path: Path) -> None:
    """What was said or heard once is said and heard by the next process while the registry is away."""
    schema = schemas.of(fresh())
    number = register(registry, schema)
    before = SchemaIds(registry, Cache(tmp_path))
    before.id_of(schema)

    after = SchemaIds(NOWHERE, Cache(tmp_path))

    assert after.id_of(schema) == number
    assert after.by_id(number) == schema


def test_a_registry_that_is_away_is_asked_seldom(tmp_path: Path) -> None:
    """After so many calls in vain none is made for a while: known ids go on at once, unknown ones wait; it is told."""
    away = Registry("http://127.0.0.1:1", timeout=1, limits=Limits(window=3, open_for=3600))
    schema, cache = schemas.of(fresh()), Cache(tmp_path)
    cache.put(7, schema)
    fallbacks = metrics.FALLBACKS.labels("schema id kept on disk")._value  # noqa: SLF001 - no other way to read it
    before = fallbacks.get()
    for _ in range(3):
        with pytest.raises(RegistryUnavailableError):
            away.text_of(8)
    registry_asked_in_vain = "the breaker of the registry is OPEN"

    assert SchemaIds(away, cache).id_of(schema) == 7
    assert SchemaIds(away, cache).by_id(7) == schema
    with pytest.raises(RegistryUnavailableError, match="breaker OPEN"):
        SchemaIds(away, cache).by_id(8)

    assert fallbacks.get() == before + 1
    assert shown()["registry"] == {"state": "OPEN", "calls": 0, "places": 10}
    assert metrics.DEPENDENCY_BREAKER.labels("registry")._value.get() == 2  # noqa: SLF001 - as above
    with pytest.raises(NotReadyError, match=registry_asked_in_vain):
        registry_asked()
    Registry("http://127.0.0.1:1")
    registry_asked()


def test_a_registry_that_is_back_is_asked_again(parts_of_the_stack: Callable[..., Any], tmp_path: Path) -> None:
    """After the pause a few calls try it, and all are made again when they go well."""
    schema = schemas.of(fresh())
    registry = Registry(parts_of_the_stack("registry").registry_url, limits=Limits(window=3, open_for=0.0))
    register(registry, schema)
    with suppress(RegistryUnavailableError), registry.breaker.call():
        raise RegistryUnavailableError
    with suppress(RegistryUnavailableError), registry.breaker.call():
        raise RegistryUnavailableError
    assert shown()["registry"]["state"] == "OPEN"

    for _ in range(registry.breaker.limits.probes):
        SchemaIds(registry, Cache(tmp_path)).id_of(schema)

    assert shown()["registry"]["state"] == "CLOSED"


def test_an_unknown_id_waits_while_the_registry_is_away(tmp_path: Path) -> None:
    """With the registry away an unknown schema or id is infrastructure: nothing is blamed, nothing parked."""
    ids = SchemaIds(NOWHERE, Cache(tmp_path))

    for ask in (lambda: ids.by_id(7), lambda: ids.id_of(schemas.of(fresh()))):
        with pytest.raises(RegistryUnavailableError) as away:
            ask()
        assert isinstance(away.value, Infrastructure)


def test_an_id_nobody_registered_waits_and_is_then_undecodable(registry: Registry, tmp_path: Path) -> None:
    """An id that a registry which answers does not know is waited for, then blamed on the record."""
    with pytest.raises(RegistryUnavailableError):
        SchemaIds(registry, Cache(tmp_path), patience=60).by_id(2**31 - 1)
    with pytest.raises(DecodeError):
        SchemaIds(registry, Cache(tmp_path), patience=0).by_id(2**31 - 1)


def test_a_schema_nobody_applied_is_named(registry: Registry, tmp_path: Path) -> None:
    """A service whose schema is not registered does not start to say it, and the message names the command."""
    schema = schemas.of(fresh())

    with pytest.raises(NotRegisteredError, match=f"{schema.name}.*quadrille schema apply"):
        Codec([schema], SchemaIds(registry, Cache(tmp_path))).prepare()


def test_a_hostile_schema_is_refused_by_its_readers(registry: Registry, tmp_path: Path) -> None:
    """A recursive schema that somebody got into the registry makes its records undecodable, and harms nobody."""
    raw = fresh()
    raw["fields"].append({"name": "next", "type": ["null", raw["name"]], "default": None})
    _, answer = registry.ask("POST", f"/subjects/quadrille.tests.{raw['name']}/versions", {"schema": json.dumps(raw)})

    with pytest.raises(DecodeError, match="recursive"):
        SchemaIds(registry, Cache(tmp_path)).by_id(answer["id"])


def test_a_rebuilt_registry_stops_what_is_said(registry: Registry, tmp_path: Path) -> None:
    """A schema that has another id than it had is not said under either."""
    schema = schemas.of(fresh())
    number = register(registry, schema)
    Cache(tmp_path).put(number + 1_000, schema)

    with pytest.raises(RegistryChangedError, match="rebuilt"):
        SchemaIds(registry, Cache(tmp_path)).id_of(schema)


def test_a_rebuilt_registry_parks_nothing(registry: Registry, tmp_path: Path) -> None:
    """A record that cannot be decoded because its id has a new meaning is not blamed for it."""
    old, new = schemas.of(fresh("key", "more")), schemas.of(fresh())
    number = register(registry, new)
    Cache(tmp_path).put(number, old)
    cls = type(new.name.rpartition(".")[2], (Event,), {})
    value = b"\0" + number.to_bytes(4, "big") + b"\x02a"

    with pytest.raises(RegistryChangedError, match="rebuilt"):
        Codec((), SchemaIds(registry, Cache(tmp_path))).decode(value, cls)


def test_a_bad_record_stays_its_own_fault(registry: Registry, tmp_path: Path) -> None:
    """A record that cannot be decoded under an id that means what it meant is DecodeError, however often asked."""
    schema = schemas.of(fresh())
    number = register(registry, schema)
    cls = type(schema.name.rpartition(".")[2], (Event,), {})
    codec = Codec((), SchemaIds(registry, Cache(tmp_path)))

    for _ in range(2):
        with pytest.raises(DecodeError):
            codec.decode(b"\0" + number.to_bytes(4, "big") + b"\x04a", cls)


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": "{}", "fingerprint": ""}'])
def test_a_torn_cache_is_asked_again(tmp_path: Path, damage: str) -> None:
    """A file that is torn or edited counts as missing: it is never believed."""
    schema = schemas.of(fresh())
    cache = Cache(tmp_path)
    cache.put(1, schema)
    (tmp_path / "1.json").write_text(damage, "utf-8")

    assert cache.get(1) is None
    assert cache.id_of(schema) is None


def test_an_edited_schema_in_the_cache_is_not_believed(tmp_path: Path) -> None:
    """A cached schema that does not have its fingerprint counts as missing."""
    cache = Cache(tmp_path)
    cache.put(1, schemas.of(fresh("key")))
    file = tmp_path / "1.json"
    file.write_text(file.read_text("utf-8").replace("key", "yek"), "utf-8")

    assert cache.get(1) is None


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    """A full or vanished disk does not stop a schema from being used."""
    folder = tmp_path / "cache"
    ids = numbered(folder, [schemas.of(fresh())])
    assert ids.by_id(1).name
    cache = Cache(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    cache.put(1, schemas.of(fresh()))

    assert cache.get(1) is None


def test_a_cache_that_cannot_be_made_is_told_and_done_without(tmp_path: Path) -> None:
    """No directory can be made where a file is: the process starts, and what it does without is shown until it is."""
    (tmp_path / "file").write_text("")
    schema = schemas.of(fresh())
    with capture_logs() as told:
        cache = Cache(tmp_path / "file" / "schemas")
        cache.put(7, schema)
        name = f"schema cache {tmp_path / 'file' / 'schemas'}"
        assert degraded.shown()[name]["reason"] == "Not a directory"
        (tmp_path / "file").unlink()
        (tmp_path / "file" / "schemas").mkdir(parents=True)
        cache.put(7, schema)
    assert name not in degraded.shown()
    assert cache.get(7) == schema
    assert [(line["event"], line["count"]) for line in told] == [("degraded", 1), ("degraded no longer", 2)]


def test_a_registry_that_talks_nonsense_is_away(tmp_path: Path) -> None:
    """An address that answers no schema registry's JSON is unavailable, not empty."""
    for url in ("http://127.0.0.1:1", "http://[::1]:1", "http:///", "http://256.0.0.1:80"):
        with pytest.raises(RegistryUnavailableError):
            Registry(url, timeout=1).id_of(schemas.of(fresh()))


class Answering(BaseHTTPRequestHandler):
    """Another's registry, with what a real one does not do to order: it asks for a login, hangs up, sends elsewhere."""

    protocol_version = "HTTP/1.1"
    met: Counter[str]

    def handle(self) -> None:
        """Count the connection."""
        self.met["connections"] += 1
        super().handle()

    def do_GET(self) -> None:
        """Answer, or do what the path says."""
        self.met[self.path] += 1
        known = self.headers["Authorization"] == "Basic dTpwOncgw6Q="
        found = json.dumps({"schema": "known" if known else "nobody"}).encode()
        match self.path:
            case "/schemas/ids/1" if self.met[self.path] == 2:
                self.close_connection = True  # hung up between two requests, or just then
                return
            case "/schemas/ids/2":
                self.close_connection = True
                return
            case "/schemas/ids/3":
                self.send_response(307)
                self.send_header("Location", "/schemas/ids/1")
            case "/schemas/ids/4":
                self.send_response(200)
                found = json.dumps({"schema": "x" * 1_000_000}).encode()
            case "/schemas/ids/5":
                self.send_response(503)
            case _:
                self.send_response(200)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextmanager
def answering() -> Iterator[tuple[str, Counter[str]]]:
    """Such a registry: its host and port, and what it met."""
    met: Counter[str] = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Answering,), {"met": met})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", met
        finally:
            server.shutdown()
            thread.join(60)


def test_a_registry_is_told_who_asks() -> None:
    """User and password of its address, decoded, go with every request; without them none do."""
    with answering() as (host, _):
        assert Registry(f"http://u:p%3Aw%20%C3%A4@{host}").text_of(7) == "known"
        assert Registry(f"http://{host}").text_of(7) == "nobody"


def test_a_connection_that_was_closed_costs_no_answer() -> None:
    """One connection carries all; a request that meets its end is sent once more, one that is never answered twice."""
    with answering() as (host, met):
        registry = Registry(f"http://{host}")
        assert [registry.text_of(1) for _ in range(3)] == ["nobody"] * 3
        assert (met["/schemas/ids/1"], met["connections"]) == (4, 2)
        with pytest.raises(RegistryUnavailableError, match="ProtocolError"):
            registry.text_of(2)
        assert met["/schemas/ids/2"] == 2


def test_an_answer_that_is_none_is_no_answer() -> None:
    """A redirect is not followed, least of all with a password; what is too long is not read; a 503 is asked once."""
    with answering() as (host, met):
        for number, why in ((3, "answered 307 without"), (4, "answered 200 without"), (5, "answered 503")):
            with pytest.raises(RegistryUnavailableError, match=why):
                Registry(f"http://u:p@{host}").text_of(number)
        assert met == {"connections": 3, "/schemas/ids/3": 1, "/schemas/ids/4": 1, "/schemas/ids/5": 1}
