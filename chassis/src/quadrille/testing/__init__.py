"""For tests of services.

Reading order: ``in_memory`` (handlers alone: given, when it hears, then it says), ``postgres`` (handlers and store over
the service's own database), ``api`` and ``ops`` (the real servers), ``fuzz`` (an API against its own description),
``relay`` (the conformance suite of relays).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quadrille import lazy

if TYPE_CHECKING:
    from quadrille.db.migrations import upgrade
    from quadrille.ids import lock_key, uuid7
    from quadrille.messages import stamp, tell_waiting
    from quadrille.observability.tracing import Spans
    from quadrille.processing.batch import process_batch
    from quadrille.processing.envelope import Duplicate, Envelope, Handled, Parked, Unreadable
    from quadrille.processing.telemetry import SagaOutcomes
    from quadrille.testing.api import serving
    from quadrille.testing.fuzz import fuzz_api
    from quadrille.testing.in_memory import START, InMemory
    from quadrille.testing.ops import ops_serving
    from quadrille.testing.postgres import Logins, OnPostgres, drift, schema_ids
    from quadrille.web.admission import PROBES, AdmissionControl, AdmissionMode
    from quadrille.web.api import Pool
else:
    __getattr__ = lazy.face(
        __name__,
        {
            "quadrille.db.migrations": ("upgrade",),
            "quadrille.ids": ("lock_key", "uuid7"),
            "quadrille.messages": ("stamp", "tell_waiting"),
            "quadrille.observability.tracing": ("Spans",),
            "quadrille.processing.batch": ("process_batch",),
            "quadrille.processing.envelope": ("Duplicate", "Envelope", "Handled", "Parked", "Unreadable"),
            "quadrille.processing.telemetry": ("SagaOutcomes",),
            "quadrille.testing.api": ("serving",),
            "quadrille.testing.fuzz": ("fuzz_api",),
            "quadrille.testing.in_memory": ("START", "InMemory"),
            "quadrille.testing.ops": ("ops_serving",),
            "quadrille.testing.postgres": ("Logins", "OnPostgres", "drift", "schema_ids"),
            "quadrille.web.admission": ("PROBES", "AdmissionControl", "AdmissionMode"),
            "quadrille.web.api": ("Pool",),
        },
    )

__all__ = [
    "PROBES",
    "START",
    "AdmissionControl",
    "AdmissionMode",
    "Duplicate",
    "Envelope",
    "Handled",
    "InMemory",
    "Logins",
    "OnPostgres",
    "Parked",
    "Pool",
    "SagaOutcomes",
    "Spans",
    "Unreadable",
    "drift",
    "fuzz_api",
    "lock_key",
    "ops_serving",
    "process_batch",
    "schema_ids",
    "serving",
    "stamp",
    "tell_waiting",
    "upgrade",
    "uuid7",
]
