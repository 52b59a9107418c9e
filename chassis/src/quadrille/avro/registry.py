"""Schemas and their ids, from the registry and a cache on disk; the guarantee: no id changes its meaning unnoticed.

Known ids work with the registry down. The cache is one file an id, written whole or not at all, checked by fingerprint.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from urllib3 import PoolManager, Retry
from urllib3.exceptions import HTTPError

from quadrille.avro import schemas
from quadrille.avro.decoder import DecodeError, refuse
from quadrille.avro.schemas import Schema, UnsafeSchemaError
from quadrille.gateway.breaker import Breaker, CircuitOpenError, Limits
from quadrille.messages import Infrastructure
from quadrille.observability import metrics
from quadrille.observability.degraded import Degraded
from quadrille.observability.tracing import ClientSpan, Value

MAX_ANSWER = 1_000_000
TIMEOUT_S = 5.0
AT_ONCE = 8  # connections kept open
AGAIN = Retry(connect=0, read=1, redirect=False, status=0, allowed_methods=None)
"""A request sent and not answered is sent once more, for its connection may have been closed meanwhile.

Each may be made twice: a schema that is registered again keeps its id.
"""

T = TypeVar("T")


class RegistryUnavailableError(Infrastructure):
    """The registry does not answer, or not usefully: infrastructure, no fault of a record."""


class Registry:
    """The Confluent-compatible HTTP interface of a schema registry over a pool of connections; safe between threads.

    All calls go through a bulkhead and a breaker, ``registry``: one that is away is asked seldom, and costs no wait.

    Args:
        url: base of the interface: ``http://127.0.0.1:8081/apis/ccompat/v7``, ``https://user:password@host/base``.
        timeout: seconds for connecting and for each read.
        limits: the breaker's and the bulkhead's.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT_S, limits: Limits | None = None) -> None:
        self._base, self._where = url.rstrip("/"), urlsplit(url)
        login = f"{unquote(self._where.username or '')}:{unquote(self._where.password or '')}".encode()
        self._headers = {"Authorization": f"Basic {b64encode(login).decode()}"} if self._where.username else {}
        self._http = PoolManager(maxsize=AT_ONCE, timeout=timeout, retries=AGAIN)
        self.breaker = Breaker(limits or Limits(), (RegistryUnavailableError,), name="registry")

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and parsed JSON of one call.

        Raises RegistryUnavailableError for silence, 5xx, non-JSON, and while it is not to be asked at all.
        """
        try:
            with self.breaker.call():
                return self._ask(method, path, body)
        except CircuitOpenError as refused:
            message = f"registry: {refused}"
            raise RegistryUnavailableError(message) from refused

    def _ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        sent = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/vnd.schemaregistry.v1+json"} if sent else {}
        try:
            answer = self._http.request(
                method,
                self._base + path,
                body=sent,
                headers=self._headers | kind,
                redirect=False,
                preload_content=False,
            )
            with closing(answer):
                raw = answer.read(MAX_ANSWER + 1)
                parsed = json.loads(raw) if raw and len(raw) <= MAX_ANSWER else None
        except (HTTPError, ValueError, RecursionError) as failed:
            message = f"registry: {_cause(failed)}"
            raise RegistryUnavailableError(message) from failed
        if answer.status >= 500:  # noqa: PLR2004 - HTTP
            message = f"registry answered {answer.status}"
            raise RegistryUnavailableError(message)
        return answer.status, parsed

    def id_of(self, schema: Schema) -> int | None:
        """Return the id under which exactly this schema is registered, or None."""
        with self._span("POST", "/subjects/{subject}") as span:
            status, found = self.ask("POST", f"/subjects/{quote(schema.name)}", {"schema": schema.text})
            span.answered(status)
        return _member(status, found, "id", int)

    def text_of(self, number: int) -> str | None:
        """Return the text registered under an id, or None."""
        with self._span("GET", "/schemas/ids/{id}") as span:
            status, found = self.ask("GET", f"/schemas/ids/{number}")
            span.answered(status)
        return _member(status, found, "schema", str)

    def _span(self, method: str, template: str) -> ClientSpan:
        """Return the span of a call; one that is made for a record is a child of the record's sending."""
        named: dict[str, Value] = {"http.request.method": method, "url.template": template}
        port = self._where.port or (443 if self._where.scheme == "https" else 80)
        return ClientSpan(
            f"{method} {template}", {**named, "server.address": self._where.hostname or "", "server.port": port}
        )


def _cause(failed: BaseException) -> str:
    """Return the name of what the operating system said, below what the library made of it."""
    while failed.__cause__ is not None:
        failed = failed.__cause__
    return type(failed).__name__


def _member(status: int, found: object, name: str, kind: type[T]) -> T | None:
    if status == 404:  # noqa: PLR2004 - HTTP
        return None
    value = found.get(name) if isinstance(found, dict) else None
    if status != 200 or not isinstance(value, kind):  # noqa: PLR2004 - HTTP
        message = f"registry answered {status} without {name}"
        raise RegistryUnavailableError(message)
    return value


PATIENCE_S = 2.0  # how long an id may be missing from a registry that answers: replicas lag, inventions stay unknown
LOOK_AGAIN_S = 10.0
MAX_MISSING = 1_000


class RegistryChangedError(RegistryUnavailableError):
    """An id means another schema than it did: the registry was rebuilt; nothing may be read or said meanwhile."""


class NotRegisteredError(RegistryUnavailableError):
    """A schema this service says is not in the registry: ``quadrille schema apply`` puts it there."""


class Cache:
    """Schemas by id in a directory that several processes may share."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._writes = folder, Degraded(f"schema cache {folder}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as failed:  # without it ids are asked for anew after each start, no more
            self._writes.lost(failed.strerror or type(failed).__name__)

    def get(self, number: int) -> Schema | None:
        """Return the schema of an id; a file that is torn, edited or missing is None."""
        try:
            held = json.loads((self._folder / f"{number}.json").read_text("utf-8"))
            schema = schemas.parse(held["schema"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return schema if schema.fingerprint == held.get("fingerprint") else None

    def put(self, number: int, schema: Schema) -> None:
        """Keep a schema; a full disk costs the memory of it, never the record at hand."""
        held = {"id": number, "name": schema.name, "fingerprint": schema.fingerprint, "schema": schema.text}
        try:
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(held, file)
            Path(name).replace(self._folder / f"{number}.json")
        except OSError as failed:
            self._writes.lost(failed.strerror or type(failed).__name__)
        else:
            self._writes.back()

    def id_of(self, schema: Schema) -> int | None:
        """Return the id under which this very text was kept, or None."""
        numbers = (int(file.stem) for file in self._folder.glob("*.json") if file.stem.isdecimal())
        return next((n for n in sorted(numbers) if (kept := self.get(n)) and kept.text == schema.text), None)


class SchemaIds:
    """What the registry knows, remembered: in memory, then on disk, then asked.

    Args:
        registry: where to ask.
        cache: where answers are kept.
        patience: seconds for which an id the registry does not know is waited for before its records are undecodable.
    """

    def __init__(self, registry: Registry, cache: Cache, patience: float = PATIENCE_S) -> None:
        self._registry, self._cache, self._patience = registry, cache, patience
        self._ids: dict[str, int] = {}
        self._known: dict[int, Schema] = {}
        self._missing: dict[int, float] = {}
        self._verified: dict[int, float] = {}

    def id_of(self, schema: Schema) -> int:
        """Return the id of a schema this service says.

        Raises NotRegisteredError, RegistryChangedError, or RegistryUnavailableError if it was never known.
        """
        if (number := self._ids.get(schema.text)) is not None:
            return number
        kept = self._cache.id_of(schema)
        try:
            number = self._registry.id_of(schema)
        except RegistryUnavailableError:
            if kept is None:
                raise
            metrics.FALLBACKS.labels("schema id kept on disk").inc()
            number = kept
        if number is None:
            message = f"{schema.name} is not registered: run quadrille schema apply"
            raise NotRegisteredError(message)
        if kept not in (None, number):
            message = f"{schema.name} had id {kept}, has {number}: the registry was rebuilt"
            raise RegistryChangedError(message)
        self._remember(number, schema)
        self._ids[schema.text] = number
        return number

    def by_id(self, number: int) -> Schema:
        """Return the schema of an id.

        Raises RegistryUnavailableError while it cannot be known, DecodeError if it is unsafe or stays unknown.
        """
        if (known := self._known.get(number) or self._cache.get(number)) is not None:
            self._known[number] = known
            return known
        text = self._registry.text_of(number)
        if text is None:
            raise self._unknown(number)
        schema = _safe(text)
        self._remember(number, schema)
        return schema

    def verify(self, number: int) -> None:
        """Hold an id against the registry, at most every 10 s; raises RegistryChangedError if it means another schema.

        A registry that is down verifies nothing.
        """
        known, now = self._known.get(number), time.monotonic()
        looked = self._verified.get(number)
        if known is None or (looked is not None and now < looked + LOOK_AGAIN_S):
            return
        try:
            text = self._registry.text_of(number)
        except RegistryUnavailableError:
            metrics.FALLBACKS.labels("schema id not verified").inc()
            return
        if text is None or _fingerprint(text) != known.fingerprint:
            message = f"id {number} was {known.name}, is another schema: the registry was rebuilt"
            raise RegistryChangedError(message)
        self._verified[number] = now

    def _remember(self, number: int, schema: Schema) -> None:
        known = self._known.setdefault(number, schema)
        if known.fingerprint != schema.fingerprint:
            message = f"id {number} was {known.name}, is {schema.name}: the registry was rebuilt"
            raise RegistryChangedError(message)
        if self._cache.get(number) != schema:
            self._cache.put(number, schema)

    def _unknown(self, number: int) -> Exception:
        if len(self._missing) >= MAX_MISSING:
            self._missing.clear()
        since = self._missing.setdefault(number, time.monotonic())
        if time.monotonic() - since < self._patience:
            return RegistryUnavailableError(f"the registry does not know schema id {number} yet")
        return DecodeError("a schema id the registry does not know")


def numbered(folder: Path, known: Iterable[Schema]) -> SchemaIds:
    """Return ids as they are known after a registry has gone: the schemas, by name, as 1, 2, 3 ... in the cache."""
    cache = Cache(folder)
    for number, schema in enumerate(sorted(known, key=lambda schema: schema.name), 1):
        cache.put(number, schema)
    return SchemaIds(Registry("http://127.0.0.1:1"), cache)


def _safe(text: str) -> Schema:
    try:
        return schemas.parse(text)
    except UnsafeSchemaError as unsafe:
        refuse(f"written with an unsafe schema: {unsafe}")


def _fingerprint(text: str) -> str | None:
    try:
        return schemas.parse(text).fingerprint
    except UnsafeSchemaError:
        return None
