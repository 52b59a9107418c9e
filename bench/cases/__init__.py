"""The cells, one module a subject."""

from __future__ import annotations

from collections.abc import Sequence

from bench.cases.relay_drain import RelayDrain
from bench.cases.relay_latency import RelayLatency
from bench.cases.saga import SagaIdle, SagaKnee, SagaOutage, SagaSteady, SagaTraced
from bench.cases.step import Step
from bench.model import Cell

CELLS: Sequence[Cell] = (
    RelayDrain(1, must=2.0, aim=3.0),
    RelayDrain(10, must=2.5, aim=4.0),
    RelayLatency(100),
    RelayLatency(1000),
    Step(),
    SagaKnee(),
    SagaSteady(),
    SagaTraced(),
    SagaOutage(),
    SagaIdle(),
)
"""All of them, in the order they are run and shown."""
CI = frozenset({"relay_drain_1", "step"})
"""Those of the profile ci, unless cells are asked for by name."""
