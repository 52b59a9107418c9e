"""What a relay counts, by prometheus-client."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ROWS = Counter("quadrille_relay_rows_total", "Outbox rows delivered to Kafka")
RESENT = Counter("quadrille_relay_resent_rows_total", "Rows this process had handed on before")
FAILURES = Counter("quadrille_relay_delivery_failures_total", "Deliveries Kafka refused: the stream started again")
RECOVERIES = Counter(
    "quadrille_relay_recoveries_total", "Scans of the outbox for a lost slot or publication", ["cause"]
)
LAG = Gauge("quadrille_relay_lag_bytes", "WAL flushed by the server and not yet acknowledged")
IN_FLIGHT = Gauge("quadrille_relay_in_flight_rows", "Rows handed on and not yet reported delivered")
AGE = Gauge(
    "quadrille_relay_acknowledged_age_seconds", "How long ago the acknowledged position was known to be current"
)
STREAMING = Gauge("quadrille_relay_streaming_ratio", "1 while this relay streams, 0 while it stands by or waits")
STALLED = Gauge("quadrille_relay_stalled_seconds", "For how long rows have waited with none delivered; 0 in order")
REFUSED = Gauge("quadrille_relay_refused_ratio", "1 while a row is refused and holds up all behind it")
LEFT_OUT = Counter("quadrille_relay_left_out_rows_total", "Rows too old to be sent again to a new log")
