"""Crash points (reliability.md, section 4): labelled moments at which a process of the stack ends or freezes itself.

The product holds no switch. A process is armed by its command line: a program that puts a trap before or after one
function of ours and then starts the usual role. At the nth pass it writes a line and sends itself the signal.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadrille_cli.services import SERVICES

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.crash.points import POINTS, Trap
Trap(POINTS[{point!r}], {nth}, {how!r}, Path({log!r})).set()
from quadrille.app import main
main({service!r}, [{role!r}])
"""
WORKERS = tuple(f"{service}-worker" for service in SERVICES)
RELAYS = tuple(f"{service}-relay" for service in SERVICES)
BATCH = "quadrille.processing.batch"
Passing = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Point:
    """A moment: before or after a function is called, where ``counts`` says that this call is meant.

    Args:
        id: its name in the table.
        label: what it is called there.
        where: module and attribute of the function, as the caller finds it.
        processes: where it can be met.
        after: whether it is met when the function has returned.
        counts: told the result (None before) and the arguments.
        also: what else must be so in this process for it to be met.
        once: whether a process passes it once, or seldom.
    """

    id: str
    label: str
    where: str
    processes: tuple[str, ...]
    after: bool = True
    counts: Passing = lambda *_, **__: True
    also: Callable[[], None] = lambda: None
    once: bool = False


def _found(result: object, *_: object, **__: object) -> bool:
    return bool(result)


def _at(path: str) -> Passing:
    return lambda _, __, asked, *___, **____: bool(asked == path)


def _tells(*types: str) -> Passing:
    """Count calls whose inputs have an answer of the outside of these types among them."""

    def counts(_: object, __: object, inputs: Sequence[Any], *___: object, **____: object) -> bool:
        bodies = [one[0].body if isinstance(one, tuple) else one.body for one in inputs]
        return any(type(body).__name__ in types for body in bodies)

    return counts


def _says(name: str) -> Passing:
    """Count batches that are committed and said this intent, and leased it to nobody."""

    def counts(outcomes: Any, *_: object, **__: object) -> bool:  # noqa: ANN401 - outcomes
        handled = [one for one in outcomes if type(one).__name__ == "Handled" and not one.handed]
        return any(type(message).__name__ == name for one in handled for message in one.emitted)

    return counts


def _more_wait(result: object, _: object, tx: Any, envelope: Any) -> bool:  # noqa: ANN401 - a connection, an envelope
    """Count heads of a lane that were handled while others of it wait behind."""
    waits = "SELECT EXISTS (SELECT FROM parked WHERE line = %b AND state = 'OPEN')"
    return type(result).__name__ == "Handled" and bool(tx.execute(waits, [envelope.lane]).fetchone()[0])


def _timers(_: object, __: object, inputs: Sequence[Any], *___: object) -> bool:
    return any(one.from_task == one.id for one in inputs)


def _ended(_: object, __: object, read: object, *___: object) -> bool:
    return type(read).__name__ == "Commit"


def _leased_later() -> None:
    """Have no intent leased to whoever emits it: the poll finds it; a refund is due only where charges are made."""
    from quadrille.processing import batch  # noqa: PLC0415 - the armed process alone

    setattr(batch, "_lease_now", lambda *_: {})  # noqa: B010 - planted


def _fails_once() -> None:
    """Have the handler of one order in so many fail at its first event: what follows of it waits behind."""
    from quadrille.handlers import HandlerRegistry  # noqa: PLC0415 - as above

    usual, failed = HandlerRegistry.dispatch, set[str]()

    def dispatch(on: Any, body: Any, work: Any) -> Any:  # noqa: ANN401 - as it is
        order = str(getattr(body, "order_id", ""))
        if type(body).__name__ == "OrderPlaced" and order[-1:] in "08" and order not in failed:
            failed.add(order)
            message = "planted"
            raise RuntimeError(message)
        return usual(on, body, work)

    setattr(HandlerRegistry, "dispatch", dispatch)  # noqa: B010 - planted


def _refused_together() -> None:
    """Have the database refuse every batch of more than one input, as if one of them were guilty."""
    import psycopg  # noqa: PLC0415 - as above

    from quadrille.processing import batch  # noqa: PLC0415 - as above

    usual = batch._placed  # noqa: SLF001 - planted

    def placed(tx: Any, service: Any, inputs: Sequence[Any], *rest: Any) -> Any:  # noqa: ANN401 - as it is
        if len(inputs) > 1:
            message = "planted"
            raise psycopg.errors.NumericValueOutOfRange(message)
        return usual(tx, service, inputs, *rest)

    setattr(batch, "_placed", placed)  # noqa: B010 - planted


def _told_commit() -> None:
    """Give the moment at which COMMIT is sent and its answer unread a function of its own."""
    from psycopg.pq import TransactionStatus  # noqa: PLC0415 - as above

    from quadrille.db.connection import pipelined  # noqa: PLC0415 - as above
    from quadrille.processing import batch  # noqa: PLC0415 - as above

    @contextmanager
    def told(tx: Any) -> Iterator[None]:  # noqa: ANN401 - a connection
        outermost = tx.info.transaction_status is TransactionStatus.IDLE
        with pipelined(tx):
            yield
            if outermost:
                tx.execute("COMMIT", prepare=False)
                tx.wait(tx._pipeline._communicate_gen())  # noqa: SLF001 - as above
                batch._commit_sent()  # type: ignore[attr-defined] # noqa: SLF001 - planted
                tx.execute("BEGIN", prepare=False)

    setattr(batch, "_commit_sent", lambda: None)  # noqa: B010 - planted
    setattr(batch, "pipelined", told)  # noqa: B010 - planted


API = ("order-api",)
PAYMENT, NOTIFICATION, ORDER = ("payment-worker",), ("notification-worker",), ("order-worker",)
BATCHER, STREAMER = "quadrille.web.command_batcher:CommandBatcher", "quadrille.relay.streaming:Streamer"
SCHEDULER, FEEDER = "quadrille.tasks.scheduler:TaskScheduler", "quadrille.consumer.parking:LaneFeeder"
INSIST, LOOK = "payment.gateway:Processor.insist", "payment.gateway:Processor.look_up"
CHARGED, REFUNDED = _tells("CardCharged", "CardDeclined"), _tells("CardRefunded", "RefundRefused")
POINTS: dict[str, Point] = {
    point.id: point
    for point in (
        Point("O1", "intake.gathered", f"{BATCHER}._commit", API, after=False),
        Point("O2", "commit.handled", f"{BATCH}:_lease_now", API, after=False),
        Point("O3", "commit.ended", f"{BATCH}:unit_of_work.end", API),
        Point("O4", "commit.sent", f"{BATCH}:_commit_sent", API, also=_told_commit),
        Point("O5", "intake.committed", f"{BATCHER}._commit", API),
        Point("O6", "intake.answered", f"{BATCHER}._settle", API),
        Point("R1", "relay.checked", "quadrille.relay.relay:Stream", RELAYS, after=False, once=True),
        Point("R2", "relay.decoded", "quadrille.relay.relay:Stream.take", RELAYS, counts=_found),
        Point("R3", "relay.part_produced", "quadrille.relay.publisher:Publisher.push", RELAYS),
        Point("R4", "relay.produced", f"{STREAMER}._handle", RELAYS, counts=_ended),
        Point("R5", "relay.delivered", "quadrille.relay.session:RelaySession.store", RELAYS, after=False),
        Point("R6", "relay.stored", "quadrille.relay.session:RelaySession.store", RELAYS),
        Point("R7", "relay.acknowledged", "quadrille.relay.relay:Stream.answer", RELAYS),
        Point("R8", "relay.rescanning", "quadrille.relay.recovery:Scan.rows", RELAYS, once=True),
        Point("W1", "worker.polled", "quadrille.consumer.loop:ConsumerLoop._take_records", WORKERS, counts=_found),
        Point("W2", "commit.fenced", f"{BATCH}:unit_of_work.begin", WORKERS),
        Point("W3", "commit.loaded", f"{BATCH}:_handle", WORKERS, after=False),
        Point("W4", "commit.handled", f"{BATCH}:_lease_now", WORKERS, after=False),
        Point("W5", "commit.ended", f"{BATCH}:unit_of_work.end", WORKERS),
        Point("W6", "commit.sent", f"{BATCH}:_commit_sent", WORKERS, also=_told_commit),
        Point("W7", "worker.committed", "quadrille.consumer.assignment:Assignment.committed", WORKERS, after=False),
        Point("W8", "commit.halved", f"{BATCH}:process_batch", WORKERS, also=_refused_together),
        Point("P1", "charge.said", f"{BATCH}:_process", PAYMENT, counts=_says("ChargeCard"), also=_leased_later),
        Point("P2", "charge.leased", INSIST, PAYMENT, after=False, counts=_at("/v1/charges")),
        Point("P3", "charge.answered", INSIST, PAYMENT, counts=_at("/v1/charges")),
        Point("P4", "charge.recording", f"{BATCH}:unit_of_work.end", PAYMENT, after=False, counts=CHARGED),
        Point("P5", "charge.recorded", f"{SCHEDULER}._commit", PAYMENT, counts=CHARGED),
        Point("P6", "inquiry.answered", LOOK, PAYMENT, counts=_at("/v1/charges"), once=True),
        Point(
            "P7", "refund.said", f"{BATCH}:_process", PAYMENT, counts=_says("RefundCard"), also=_leased_later, once=True
        ),
        Point("P8", "refund.leased", INSIST, PAYMENT, after=False, counts=_at("/v1/refunds")),
        Point("P9", "refund.answered", INSIST, PAYMENT, counts=_at("/v1/refunds")),
        Point("P10", "refund.recording", f"{BATCH}:unit_of_work.end", PAYMENT, after=False, counts=REFUNDED),
        Point("N1", "mail.leased", "notification.gateway:Mailer.deliver", NOTIFICATION, after=False),
        Point("N2", "mail.accepted", "notification.gateway:Mailer.deliver", NOTIFICATION),
        Point("N3", "mail.recorded", f"{SCHEDULER}._commit", NOTIFICATION, counts=_tells("MailSent", "MailFailed")),
        Point("U1", "timer.leased", f"{SCHEDULER}._timer", ORDER),
        Point("U2", "timer.fired", f"{SCHEDULER}._commit", ORDER, counts=_timers),
        Point("U3", "redrive.fed", f"{FEEDER}.handle", PAYMENT, counts=_more_wait, also=_fails_once, once=True),
    )
}


class Trap:
    """A point with its signal: how often it is passed, and what happens then."""

    def __init__(self, point: Point, nth: int, how: str, log: Path) -> None:
        self._point, self._nth, self._how, self._log = point, nth, how, log
        self._passed, self._lock = 0, threading.Lock()

    def set(self) -> None:
        """Put it into this process."""
        self._point.also()
        module, _, path = self._point.where.partition(":")
        *owners, name = path.split(".")
        owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
        usual = getattr(owner, name)
        setattr(owner, name, self._trapped(usual))

    def _trapped(self, usual: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(usual, updated=())
        def trapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as it is
            if not self._point.after:
                self._pass(None, *args, **kwargs)
            result = usual(*args, **kwargs)
            if self._point.after:
                self._pass(result, *args, **kwargs)
            return result

        return trapped

    def _pass(self, result: object, *args: object, **kwargs: object) -> None:
        if not self._point.counts(result, *args, **kwargs):
            return
        with self._lock:
            self._passed += 1
            if self._passed != self._nth:
                return
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{self._point.id} {self._point.label} {self._nth} {self._how} {os.getpid()}\n")
            log.flush()
            os.fsync(log.fileno())
        os.kill(os.getpid(), signal.SIGKILL if self._how == "kill" else signal.SIGSTOP)


def armed(process: str, point: str, nth: int, how: str, log: Path) -> list[str]:
    """Return the command of a process that meets a point for the nth time and ends, or freezes."""
    service, _, role = process.partition("-")
    program = PROGRAM.format(root=str(ROOT), point=point, nth=nth, how=how, log=str(log), service=service, role=role)
    return [sys.executable, "-X", "utf8", "-c", program]
