"""Process context: what a process of a service stands in, made once by ``quadrille.app`` and given to all it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from quadrille.db.retention import Retention
from quadrille.keys import Keyring, keyring_of
from quadrille.observability.linger import Linger
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import Meter, SagaOutcomes, Telemetry
from quadrille.service import Decoder, Outages, Service, Tx
from quadrille.settings import Settings


class _Deaf:
    """The decoder of a process that hears no topic."""

    def decode(self, value: bytes, cls: type[Any]) -> Any:  # noqa: ANN401, ARG002 - a Decoder's
        """Refuse what nobody should have asked."""
        message = f"this process hears no {cls.__name__}: it was given no decoder"
        raise TypeError(message)


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """The context of an api or a worker: its settings, its service, its ways to the database and to the traces.

    ``tally`` counts how sagas end, where that is counted, ``meter`` what the service counts itself; ``stop`` is set
    when the process is to end. A worker has a ``decoder`` of what it hears and a ``client`` of the outside; ``beats``
    says that it says and hears proofs of life, ``forget`` is what the service itself lets go with time, ``outages``
    what it does about those of others. ``acts_by`` holds, by name, what tells by which state this process acts
    (`intake`); told to look, it reads that state first.
    ``keys`` are those of its settings, None where no key is wanted; raises SettingsError when they cannot be read.
    """

    settings: Settings
    service: Service[Any]
    connect: Callable[[], Tx]
    spans: Spans
    tally: SagaOutcomes | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    decoder: Decoder = field(default_factory=_Deaf)
    client: object = None
    beats: bool = False
    meter: Meter | None = None
    forget: Callable[[Tx, timedelta], int] | None = None
    outages: Outages | None = None
    acts_by: dict[str, Callable[[bool], str]] = field(default_factory=dict)
    keys: Keyring | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", keyring_of(self.settings))

    @property
    def telemetry(self) -> Telemetry:
        """Who is told what became of batches."""
        return Telemetry(self.spans, self.tally, self.meter)

    def linger(self, role: str) -> Linger:
        """Return how long batches of a role wait for company; a consumer's least is its broker's."""
        least = timedelta(0) if role == "consumer" else self.settings.linger_min
        return Linger(role, self.settings.linger_max.total_seconds(), least.total_seconds())

    @property
    def retention(self) -> Retention:
        """What the database needs beside its inputs."""
        return Retention(self.settings.inbox_window, self.settings.idempotency_ttl, self.forget)
