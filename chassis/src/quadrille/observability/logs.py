"""Logs: one JSON object a line, a fixed phrase and allow-listed keys; no payload, token or address can get in.

``structlog.get_logger().info("partitions assigned", count=3)``: the phrase says what, the keys say where. A key that is
not on the list is left out; an exception is its class and where it was raised, never its text.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict

KEYS = (
    "ts", "level", "event", "service", "role", "release", "order_id", "event_id", "event_type", "topic", "partition",
    "offset", "attempt", "trace_id", "request_id", "error_class",
)  # fmt: skip
# Measures and fixed phrases beside the published fields: none can hold what a person sent.
MORE = (
    "count", "rows", "tried", "done", "seconds", "port", "bind", "reason", "error", "cause", "where", "logger",
    "method", "route", "status", "lsn", "slot", "schema_id", "setting", "dependency", "sequence", "outcome", "ms",
)  # fmt: skip
_ORDER = {key: place for place, key in enumerate((*KEYS, *MORE))}
FRAMES = 8
log = structlog.get_logger()


def configure(service: str, role: str, level: str = "info", *, events: bool = False) -> None:
    """Send every log of this process, structlog's and the libraries', to stderr in one form.

    With ``events`` each input handled and each event published has a line too, at info.
    """
    always = {"service": service, "role": role, "release": release()}
    shared: list[Any] = [structlog.stdlib.add_log_level, _stamp, _Always(always), _name_exceptions, _allow]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    render: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    handler = Sink(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
            foreign_pre_chain=[_template, *shared],
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    event_lines.begin(handler, always, wanted=events and root.isEnabledFor(logging.INFO))
    for noisy in ("uvicorn.error", "alembic", "psycopg", "psycopg.pool", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING if level != "debug" else logging.DEBUG)


class Sink(logging.StreamHandler[Any]):
    """Writes lines; those that cannot be written, to a full disk or a closed pipe, are counted and told of later."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and after lines that were lost, how many."""
        before = self.lost
        super().emit(record)
        if before and self.lost == before:
            self.lost = 0
            log.warning("log lines were lost", count=before)

    def write_all(self, lines: Iterable[str]) -> None:
        """Write lines that are made already, whole and in one go."""
        text = "".join(lines)
        if not text:
            return
        with self.lock or nullcontext():
            try:
                self.stream.write(text)
                self.flush()
            except Exception:  # noqa: BLE001 - as logging does: what cannot be written stops nobody
                self.lost += text.count("\n")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count a line that could not be written; where would it be told."""
        del record
        self.lost += 1


class EventLines:
    """Lines of which there is one an input or event, written many at a time: each costs a tenth of a usual one.

    They have the form of all others; nothing is written before ``configure`` has asked for it.
    """

    on = False

    def begin(self, sink: Sink, always: dict[str, str], *, wanted: bool) -> None:
        """Write to this sink from now on, if it is wanted, with what is the same on every line."""
        self._sink, self._always, self.on = sink, json.dumps(always)[1:-1], wanted

    def write(self, phrase: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write a line for each row of values under these names; none of what is None."""
        if unknown := set(names) - _ORDER.keys():
            message = f"{min(unknown)} is no key of a log line"
            raise ValueError(message)
        if self._sink.stream.isatty():
            for row in rows:
                log.info(phrase, **dict(zip(names, row, strict=True)))
            return
        head = f'{{"ts": "{_now()}", "level": "info", "event": {_quoted(phrase)}, {self._always}, '
        members = [f"{_quoted(name)}: " for name in names]
        whole = f"{head.replace('%', '%%')}{'%s, '.join(members)}%s}}\n"
        self._sink.write_all(
            whole % tuple([_quoted(value) if value.__class__ is str else value for value in row])
            if None not in row
            else f"{head}{', '.join(_members(members, row))}}}\n"
            for row in rows
        )


def _members(members: Sequence[str], row: Sequence[object]) -> Iterator[str]:
    """Yield the members of a line that has not all of them: what is None is left out."""
    for member, value in zip(members, row, strict=True):
        if value is not None:
            yield f"{member}{_quoted(value) if isinstance(value, str) else value}"


event_lines = EventLines()


class ThrottledLog:
    """Says of what comes again and again when it is to be told: each kind once in so many seconds."""

    def __init__(self, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._met: dict[str, tuple[float, int]] = {}  # kind: told until, met since
        self._lasting: dict[str, tuple[float, bool]] = {}  # phrase: since when, and whether it was told

    def met(self, kind: str) -> int:
        """Count one of a kind; return how many came since one was told, 0 if it is too early to tell again."""
        until, count = self._met.get(kind, (float("-inf"), 0))
        if (now := self._clock()) < until:
            self._met[kind] = until, count + 1
            return 0
        self._met[kind] = now + self._seconds, 0
        return count + 1

    def forget(self) -> None:
        """Tell whatever is met next: what was met before is over."""
        self._met.clear()

    def warn(self, phrase: str, error_class: str) -> None:
        """Log a kind of trouble that is met again and again, when it is to be told, with how many there were."""
        since, told = self._lasting.get(phrase, (self._clock(), False))
        count = self.met(f"{phrase} {error_class}")
        self._lasting[phrase] = since, told or count > 0
        if count:
            log.warning(phrase, error_class=error_class, count=count)

    def over(self, *phrases: str) -> None:
        """Log that a trouble that was told is over, and how long it lasted: the other edge, at the same level.

        Of all that was met, or of these; what came back too soon to be told again ends untold too.
        """
        for phrase in phrases or tuple(self._lasting):
            since, told = self._lasting.pop(phrase, (0.0, False))
            if told:
                end = f"{phrase}: over"
                log.warning(end, seconds=round(self._clock() - since, 1))


def release() -> str:
    """Return the version of the chassis, which is the release's."""
    try:
        return importlib.metadata.version("quadrille-chassis")
    except importlib.metadata.PackageNotFoundError:
        return "source"


class _Always:
    """Adds what is the same on every line."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        return {**event, **self._fields}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stamp(_logger: object, _method: str, event: EventDict) -> EventDict:
    event["ts"] = _now()
    return event


def _template(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Give a library's line its unfilled template as phrase: its values are not ours to show."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["event"], event["logger"], event["exc_info"] = str(record.msg), record.name, record.exc_info
    return event


def _name_exceptions(_logger: object, _method: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    raised = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(raised, BaseException):
        frames = traceback.extract_tb(raised.__traceback__)[-FRAMES:]
        event["error"] = type(raised).__name__
        event["where"] = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return event


def _allow(_logger: object, _method: str, event: EventDict) -> EventDict:
    kept = {key: value for key, value in event.items() if (key in _ORDER or key[0] == "_") and value is not None}
    return dict(sorted(kept.items(), key=lambda item: _ORDER.get(item[0], -1)))
