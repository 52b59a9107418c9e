"""What a service's main.py wires, and what its HTTP face is made from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from chassis.outside import Outside
from chassis.registry import Reactions
from chassis.service import Service, Store, Tx
from chassis.settings import Settings
from chassis.tracing import Spans

if TYPE_CHECKING:
    from chassis.operators import Deed
    from chassis.tally import Outcome, Tally
    from chassis.upkeep import Upkeep

W = TypeVar("W")


def _nobody(_: Settings) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Program(Generic[W]):
    """What a service's main.py wires: handlers, store, errands with their client, rules, and where its HTTP face is.

    ``api`` is the name of a function ``make(face: Face)`` giving an ASGI app, imported by the api role alone;
    ``outcome`` tells how a saga ends by what is said; ``forget`` lets some of its own rows go that are past their time
    and returns how many; ``operators`` are the commands a person may give over the ops
    port, ``ops`` the names of functions ``routes(face: Face)`` giving what else the api's ops port answers.
    """

    on: Reactions[W]
    store: Store[W]
    api: str
    outside: Outside = field(default_factory=lambda: Outside(""))
    client: Callable[[Settings], object] = _nobody
    rules: Callable[[Settings], object] = _nobody
    outcome: Outcome | None = None
    forget: Callable[[Tx, Settings], int] | None = None
    operators: Sequence[Deed] = ()
    ops: Sequence[str] = ()

    def upkeep(self, settings: Settings) -> Upkeep:
        """Return how a worker keeps the service's database in order."""
        from chassis.upkeep import Upkeep  # noqa: PLC0415 - the worker's alone

        forget = self.forget
        return Upkeep(settings.inbox_window, (lambda tx: forget(tx, settings)) if forget else None)

    def tally(self, connect: Callable[[], Tx]) -> Tally | None:
        """Return a process's own count of how sagas end, None where that is not counted."""
        from chassis.tally import Tally  # noqa: PLC0415 - the relay knows no database of ours

        return Tally(connect, self.outcome) if self.outcome else None


@dataclass(frozen=True, slots=True)
class Face:
    """What an HTTP face is made from."""

    settings: Settings
    service: Service[Any]
    connect: Callable[[], Tx]
    spans: Spans
    tally: Tally | None = None  # how sagas end, where that is counted
    stop: threading.Event = field(default_factory=threading.Event)  # set when the process is to end
