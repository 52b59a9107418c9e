"""In-memory service for tests: its handlers over rows in memory; given what came before, a message, what is emitted.

Nothing stands between a message and its handler, no inbox either, so a promise that holds here holds by the state
guards alone (law L11).
"""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, cast

from quadrille.avro.decoder import DecodeError
from quadrille.handlers import HandlerRegistry
from quadrille.messages import Emitted, Event, Message, Timer, from_json, stamp, to_json
from quadrille.rows import Rows
from quadrille.service import tables

K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")
F = TypeVar("F", bound=Event)
HEAD = b"\0\0\0\0\7"
START = datetime(2026, 11, 21, 9, 14, 3, 120_000, tzinfo=UTC)
"""When the time of tests begins."""


class OpenRows(Rows[K, V]):
    """Rows of which every key counts as asked for: a table that is wholly in memory."""

    __slots__ = ()

    def get(self, key: K) -> V | None:
        """Return the row as it stands now, or None if there is none."""
        self._asked.add(key)
        return super().get(key)

    def put(self, key: K, row: V) -> None:
        """Set the row."""
        self._asked.add(key)
        super().put(key, row)


class PlainCodec:
    """JSON behind the five bytes of the wire: what cannot be read is DecodeError, as with Avro."""

    def encode(self, fact: Event) -> bytes:
        """Return an event's bytes."""
        return HEAD + to_json(fact)

    def decode(self, value: bytes, cls: type[F]) -> F:
        """Return the event of a record's bytes."""
        if value[: len(HEAD)] != HEAD:
            reason = "no schema id in front"
            raise DecodeError(reason)
        try:
            return cast("F", from_json(cls, value[len(HEAD) :]))
        except ValueError as wrong:
            reason = "not what the schema says"
            raise DecodeError(reason) from wrong


class InMemory(Generic[W]):
    """One service without database and topics; ``work`` are its rows, to be arranged and looked at.

    ``now`` is the time of the next message; every message moves it one second on, a timer's is when it is due.
    """

    def __init__(self, on: HandlerRegistry[W], rules: object = None) -> None:
        self.on = on
        self.work: W = on.work(**_empty(on.work, rules))
        self.now = START
        self.exercised: set[tuple[str, str]] = set()
        self._emitted: list[Emitted] = []

    def given(self, *messages: Message) -> None:
        """Let messages arrive, and forget what they emit."""
        for message in messages:
            self._react(message)

    def receives(self, *messages: Message, times: int = 1) -> None:
        """Let each message arrive that often, one after the other, past the inbox."""
        for message in messages:
            for _ in range(times):
                self._emitted += self._react(message)

    def emitted(self) -> list[Emitted]:
        """Return what was emitted to the messages received since this was last asked."""
        emitted, self._emitted = self._emitted, []
        return emitted

    def _react(self, message: Message) -> tuple[Emitted, ...]:
        self.now += timedelta(seconds=1)
        stamp(message, getattr(message, "due", self.now) if isinstance(message, Timer) else self.now)
        marks = [(rows, rows.mark()) for rows in tables(self.work)]
        try:
            emitted = self.on.dispatch(message, self.work)
        except Exception:
            for rows, mark in marks:
                rows.rewind(mark)
            raise
        if emitted:
            name = self.on.specs[type(message)].name
            self.exercised |= {(name, one.type) for one in emitted}
        return emitted


def _empty(work: type, rules: object) -> dict[str, Any]:
    tables_of: dict[str, Any] = {f.name: OpenRows((), {}) for f in fields(work) if f.name != "rules"}
    return tables_of if rules is None else tables_of | {"rules": rules}
