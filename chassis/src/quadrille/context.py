"""What a process of a service stands in: the context of its HTTP API, and of its worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quadrille.db.retention import Upkeep
from quadrille.observability.progress import Patience
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import SagaOutcomes
from quadrille.service import Decoder, Service, Tx
from quadrille.settings import Settings


@dataclass(frozen=True, slots=True)
class Face:
    """What an HTTP face is made from."""

    settings: Settings
    service: Service[Any]
    connect: Callable[[], Tx]
    spans: Spans
    tally: SagaOutcomes | None = None  # how sagas end, where that is counted
    stop: threading.Event = field(default_factory=threading.Event)  # set when the process is to end


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker stands in, and how large a batch may be; ``beats`` says that it says and hears proofs of life.

    ``tally`` counts how sagas end, ``upkeep`` is what the database needs beside its inputs, ``patience`` how long
    nothing may be handled with records ahead.
    """

    connect: Callable[[], Tx]
    bootstrap: str
    decoder: Decoder
    spans: Spans
    client: object = None
    batch_max: int = 100
    beats: bool = False
    tally: SagaOutcomes | None = None
    upkeep: Upkeep = field(default_factory=Upkeep)
    patience: Patience = field(default_factory=Patience)
