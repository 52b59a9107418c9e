"""Metrics: what every process counts, by prometheus-client; names are ``quadrille_<what>_<unit>`` and stay."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram, values

__all__ = ["Counter", "Gauge", "Histogram", "count_outcome", "set_all"]

# Every process counts for itself. A PROMETHEUS_MULTIPROC_DIR that somebody's shell has is not ours to write into.
values.ValueClass = values.MutexValue

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)

INPUTS = Counter("quadrille_inputs_total", "Inputs given to process_batch", ["type", "outcome"])
EVENTS = Counter("quadrille_events_total", "Events emitted, counted after their commit", ["type"])
COMMIT = Histogram("quadrille_commit_duration_seconds", "One call of process_batch, halving included", buckets=_FAST)
BATCH = Histogram("quadrille_batch_inputs", "Inputs in one call of process_batch", buckets=_SIZES)
LINGER = Gauge("quadrille_linger_seconds", "How long a batch that has begun waits for company, by role", ["role"])
OUTAGES = Counter("quadrille_outages_total", "Commits the infrastructure refused or did not answer", ["error_class"])

LAG = Gauge("quadrille_consumer_lag_records", "Records not yet handled, in whosever hands", ["topic", "partition"])
STALLED = Gauge("quadrille_stalled_seconds", "How long work has been ahead and nothing of it handled", ["role"])
STALLS = Counter("quadrille_stalls_total", "Times that nothing was handled for longer than STALL_AFTER", ["role"])
RENEWALS = Counter("quadrille_client_renewals_total", "Clients made anew because nothing was handled", ["role"])

OUTBOX_ROWS = Gauge("quadrille_outbox_unpublished_rows", "Outbox rows not published, 100000 at most")
OUTBOX_AGE = Gauge("quadrille_outbox_unpublished_age_seconds", "Age of the oldest outbox row not published, or 0")
PARKED = Gauge("quadrille_parked_inputs", "Inputs set aside: OPEN or DEAD", ["type", "error_class", "state"])
PARKED_AGE = Gauge("quadrille_parked_age_seconds", "How long the input that is parked longest has been", ["state"])
HEARD_AGE = Gauge("quadrille_service_heard_age_seconds", "How long ago a service's heartbeat was heard", ["source"])
SILENT = Gauge("quadrille_service_silent", "A service whose heartbeats are missed: 1 until it is heard", ["source"])
GAUGES_READ = Gauge("quadrille_gauges_read_timestamp_seconds", "When the gauges kept in the database were last read")
INTAKE = Gauge("quadrille_intake_state", "1 for the state the intake is in, 0 for others", ["state"])
DISK = Gauge("quadrille_disk_bytes", "What the disk guard knows of the database's disk", ["measure"])
DISK_PRESSURE = Gauge("quadrille_disk_pressure_ratio", "How near its limit that is: at 1 intake shuts", ["measure"])
CONSUMER_PAUSED = Gauge("quadrille_consumer_paused", "1 while the service's consumers are paused, by hand or by alarm")

CALLS = Counter("quadrille_outside_calls_total", "Calls to the outside", ["intent", "answer"])
CALL = Histogram("quadrille_outside_call_duration_seconds", "One call to the outside", ["intent"], buckets=_FAST)
BREAKER = Gauge("quadrille_breaker_state", "The outside's breaker: 0 closed, 1 half-open, 2 open", ["service"])
DEPENDENCY_BREAKER = Gauge(
    "quadrille_dependency_breaker_state",
    "Any breaker, the registry's too: 0 closed, 1 half, 2 open",
    ["dependency"],
)
FALLBACKS = Counter("quadrille_fallbacks_total", "How often we went on without whom we had asked", ["fallback"])

REQUESTS = Counter("quadrille_http_requests_total", "HTTP requests answered", ["method", "route", "status"])
REQUEST = Histogram("quadrille_http_request_duration_seconds", "One HTTP request", ["route"], buckets=_FAST)
IN_FLIGHT = Gauge("quadrille_http_requests_in_flight", "HTTP requests not yet answered")
CONNECTIONS = Gauge("quadrille_http_connections", "HTTP connections open", ["port"])
CLOSED = Counter("quadrille_http_connections_closed_total", "HTTP connections closed on our part", ["port", "cause"])
COMMANDS_MOST = Gauge("quadrille_intake_limit_commands", "Commands that may be in flight now: more are refused at once")
WAITING = Gauge("quadrille_intake_waiting_commands", "Commands waiting for the committer")

SPANS_SENT = Counter("quadrille_spans_sent_total", "Spans an endpoint took")
SPANS_DROPPED = Counter("quadrille_spans_dropped_total", "Spans lost: queue full or an endpoint failing")
DEGRADED = Gauge("quadrille_degraded", "What is lost and can be done without: 1 while it is", ["what"])


def set_all(gauge: Gauge, found: Mapping[tuple[str, ...], float]) -> None:
    """Set a labelled gauge to what was found, and to 0 what it told before and was not found: nothing old stays.

    A gauge is told by one thread; a scrape meanwhile sees old or new values, never none.
    """
    names = gauge._labelnames  # noqa: SLF001 - as they were declared
    samples = (sample for metric in gauge.collect() for sample in metric.samples)
    told = {tuple(sample.labels[name] for name in names) for sample in samples}
    for labels in told - found.keys():
        gauge.labels(*labels).set(0)
    for labels, value in found.items():
        gauge.labels(*labels).set(value)


def count_outcome(kind: str, outcome: object) -> None:
    """Count what became of one input: handled, duplicate, parked, failed or busy."""
    INPUTS.labels(kind, type(outcome).__name__.lower()).inc()
