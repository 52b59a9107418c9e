"""Metrics: what every process counts, by prometheus-client; names are ``quadrille_<what>_<unit>`` and stay."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, values

# Every process counts for itself. A PROMETHEUS_MULTIPROC_DIR that somebody's shell has is not ours to write into.
values.ValueClass = values.MutexValue

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)

INPUTS = Counter("quadrille_inputs_total", "Inputs given to process_batch", ["type", "outcome"])
COMMIT = Histogram("quadrille_commit_duration_seconds", "One call of process_batch, halving included", buckets=_FAST)
BATCH = Histogram("quadrille_batch_inputs", "Inputs in one call of process_batch", buckets=_SIZES)
OUTAGES = Counter("quadrille_outages_total", "Commits the infrastructure refused or did not answer", ["error_class"])

LAG = Gauge("quadrille_consumer_lag_records", "Records not yet handled, in whosever hands", ["topic", "partition"])
STALLED = Gauge("quadrille_stalled_seconds", "How long work has been ahead and nothing of it handled", ["role"])
STALLS = Counter("quadrille_stalls_total", "Times that nothing was handled for longer than STALL_AFTER", ["role"])
RENEWALS = Counter("quadrille_client_renewals_total", "Clients made anew because nothing was handled", ["role"])

PARKED = Gauge("quadrille_parked_inputs", "Inputs that failed and wait", ["service", "type", "error_class", "state"])
PARKED_AGE = Gauge(
    "quadrille_parked_oldest_seconds", "Age of the oldest input that waits", ["service", "type", "error_class"]
)
CONSUMER_PAUSED = Gauge("quadrille_consumer_paused", "1 while the service's consumers are paused", ["service"])

CALLS = Counter("quadrille_outside_calls_total", "Calls to the outside", ["intent", "answer"])
CALL = Histogram("quadrille_outside_call_duration_seconds", "One call to the outside", ["intent"], buckets=_FAST)
BREAKER = Gauge("quadrille_breaker_state", "The outside's breaker: 0 closed, 1 half-open, 2 open", ["service"])

REQUESTS = Counter("quadrille_http_requests_total", "HTTP requests answered", ["method", "route", "status"])
REQUEST = Histogram("quadrille_http_request_duration_seconds", "One HTTP request", ["route"], buckets=_FAST)
IN_FLIGHT = Gauge("quadrille_http_requests_in_flight", "HTTP requests not yet answered")
CONNECTIONS = Gauge("quadrille_http_connections", "HTTP connections open", ["port"])
CLOSED = Counter("quadrille_http_connections_closed_total", "HTTP connections closed on our part", ["port", "cause"])
WAITING = Gauge("quadrille_intake_waiting_commands", "Commands waiting for the committer")

SPANS_SENT = Counter("quadrille_spans_sent_total", "Spans an endpoint took")
SPANS_DROPPED = Counter("quadrille_spans_dropped_total", "Spans lost: queue full or an endpoint failing")
DEGRADED = Gauge("quadrille_degraded", "What is lost and can be done without: 1 while it is", ["what"])


def count_outcome(kind: str, outcome: object) -> None:
    """Count what became of one input: handled, duplicate, parked, failed or busy."""
    INPUTS.labels(kind, type(outcome).__name__.lower()).inc()
